# SPDX-License-Identifier: MIT
"""`POST /v1/responses`: a chat that is told in another form. Runs on the server's event loop."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Sequence

from fastapi import Request
from pydantic import ValidationError
from starlette.responses import JSONResponse
from starlette.responses import Response as HttpResponse

from coordinator.errors import CaravanError
from coordinator.generation import AsyncGeneration, Token
from coordinator.http.beginning import BegunChat
from coordinator.http.body import invalid
from coordinator.http.collecting import reason_of, until_begun, until_ended, usage_of
from coordinator.http.errors import error_info
from coordinator.http.measures import progress_of, timings_of
from coordinator.http.merge import merged
from coordinator.http.response_form import ResponseTelling
from coordinator.http.schemas.chat import ChatRequest
from coordinator.http.schemas.response_request import ResponseRequest
from coordinator.http.schemas.responses import Response, ResponseEvent
from coordinator.http.streaming import EventStream

_log = logging.getLogger(__name__)


def chat_of(asked: ResponseRequest) -> ChatRequest:
    """The chat request that is answered.

    Raises:
        RejectedError: 400, it cannot be answered as asked.
    """
    try:
        return asked.as_chat()
    except ValidationError as error:
        raise invalid(error) from None


def telling_of(asked: ResponseRequest, model: str, begun: BegunChat, *, is_timed: bool) -> ResponseTelling:
    """A response of which nothing has been said yet."""
    given = asked.model_dump(mode="json", exclude_none=True)
    told = {
        name: given[name] for name in Response.model_fields if name in given and name not in ("text", "tool_choice")
    }
    response = Response.model_validate(
        told
        | {
            "id": f"resp_{secrets.token_hex(12)}",
            "created_at": int(time.time()),
            "model": model,
            "text": _text_of(asked),
            "tool_choice": _choice_of(asked),
        }
    )
    return ResponseTelling(response, begun.reading, with_logprobs=asked.wants_logprobs, is_timed=is_timed)


async def respond(
    request: Request, telling: ResponseTelling, generation: AsyncGeneration, *, is_stream: bool
) -> HttpResponse:
    """The answer, streamed if that was asked for.

    Raises:
        CaravanError: it failed before anything was said.
        ClientGoneError: nobody is left to read the answer.
    """
    if is_stream:
        await until_begun(request, [generation])
        return EventStream(_events(telling, generation), [generation])
    await until_ended(request, [generation])
    telling.begin()
    for token in generation.tokens:
        telling.push([token], token.text)
    timings = timings_of(generation.usage)
    telling.finish(reason_of(generation), usage_of([generation], 1), timings)
    return JSONResponse({**telling.response.model_dump(mode="json"), "timings": timings.model_dump()})


async def _events(telling: ResponseTelling, generation: AsyncGeneration) -> AsyncGenerator[bytes, None]:
    """The events of a streamed response; a failure on the way is the last of them."""
    try:
        yield _written(telling.begin())
        source = merged([generation])
        try:
            async for event in source:
                if event.progress is not None:
                    yield _written(telling.progress(progress_of(event.progress)))
                elif event.token is None:
                    timings = timings_of(generation.usage)
                    yield _written(telling.finish(reason_of(generation), usage_of([generation], 1), timings))
                elif events := _told(telling, generation, event.token):
                    yield _written(events)
        finally:
            await source.aclose()
    except CaravanError as error:
        yield _written(telling.fail(error_info(error)))
    except Exception as error:
        _log.exception("a stream failed")
        yield _written(telling.fail(error_info(error)))


def _told(telling: ResponseTelling, generation: AsyncGeneration, token: Token) -> list[ResponseEvent]:
    timings = timings_of(generation.usage) if telling.is_timed else None
    return telling.push([token], token.text, timings)


def _written(events: Sequence[ResponseEvent]) -> bytes:
    return b"".join(
        f"event: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()
        for event in events
    )  # fmt: skip


def _text_of(asked: ResponseRequest) -> dict[str, object]:
    form = None if asked.text is None else asked.text.format
    if form is None or form.json_schema is None:
        return {"format": {"type": "text" if form is None else form.type}}
    schema = form.json_schema
    told = {"type": form.type, "name": schema.name or "answer", "schema": schema.schema_, "strict": True}
    return {"format": told}


def _choice_of(asked: ResponseRequest) -> str | dict[str, object]:
    choice = asked.tool_choice
    if choice is None:
        return "auto"
    if choice.is_one and choice.names:
        return {"type": "function", "name": choice.names[0]}
    if choice.names is None:
        return choice.calls.value
    tools = [{"type": "function", "name": name} for name in choice.names]
    return {"type": "allowed_tools", "mode": choice.calls.value, "tools": tools}
