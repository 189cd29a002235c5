# SPDX-License-Identifier: MIT
"""`POST /completion` and `/completions`: completions in llama-server's own form. On the server's event loop."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response

from coordinator.http.beginning import Beginning, asked_of
from coordinator.http.body import read_body
from coordinator.http.clients import client_of
from coordinator.http.collecting import collect, until_begun
from coordinator.http.llama_form import LlamaForm
from coordinator.http.schemas.llama_completion import LlamaCompletionRequest
from coordinator.http.service import Service
from coordinator.http.streaming import EventStream, events_of, written_response


def add_llama_completion_routes(app: FastAPI, service: Service, beginning: Beginning) -> None:
    """Adds them."""

    @app.post("/completion")
    @app.post("/completions")
    async def completion(request: Request) -> Response:
        asked = await read_body(request, LlamaCompletionRequest)
        n_top_logprobs = asked.n_reported or None
        async with service.served(request, asked) as served:
            asked = served.within_time(asked)
            generations = await beginning.completions(served.mesh, asked, n_top_logprobs, client_of(request))
            told_again = await asked_of(served.mesh(), asked, generations)
        form = LlamaForm(
            served.name,
            told_again,
            with_probabilities=n_top_logprobs is not None,
            with_tokens=bool(asked.return_tokens),
            fields=asked.response_fields or (),
            is_timed=bool(asked.timings_per_token),
        )
        if not asked.stream:
            return written_response(await collect(request, form, generations, asked.n_choices))
        await until_begun(request, generations)
        events = events_of(form, generations, asked.n_choices, include_usage=asked.include_usage)
        return EventStream(events, generations)
