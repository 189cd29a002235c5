# SPDX-License-Identifier: MIT
"""Answers as they are generated: server-sent events, and a response that ends with its client.

Runs on the server's event loop. Sources of the form: OpenAI's API; "Server-sent events" in the HTML standard.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence

import anyio
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from coordinator.errors import CaravanError
from coordinator.generation import AsyncGeneration, Token
from coordinator.http.collecting import finished_of, usage_of
from coordinator.http.errors import error_info
from coordinator.http.forms import Form
from coordinator.http.measures import timings_of
from coordinator.http.merge import merged
from coordinator.http.pieces import Piece
from coordinator.http.schemas.answer import Answer
from coordinator.http.schemas.status import ErrorBody

_log = logging.getLogger(__name__)
_DONE = b"data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """A stream of events. However it ends (sent, failed, its client gone), its generations end with it, and `on_end`
    is called."""

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        generations: Sequence[AsyncGeneration],
        on_end: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._events = events
        self._generations = generations
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._events.aclose()
            for generation in self._generations:  # events that were never begun cannot end them
                generation.cancel()
            if self._on_end is not None:
                self._on_end()


async def events_of(
    form: Form,
    generations: Sequence[AsyncGeneration],
    n_choices: int,
    *,
    include_usage: bool,
    seen: Sequence[int] | None = None,
) -> AsyncGenerator[bytes, None]:
    """The events of a streamed answer. A failure on the way is told as an event; then there is no [DONE].

    Args:
        seen: Events of each generation that the client has: those are left out, and all have ids, by which it can ask
            for the rest: how many there were of each generation until then. None: they have none.
    """
    counts = [0] * len(generations)

    def is_new(index: int) -> bool:
        counts[index] += 1
        return seen is None or counts[index] > seen[index]

    def number() -> str | None:
        return None if seen is None else ",".join(map(str, counts))

    try:
        async for index, chunk in _chunks(form, generations):
            if index is None:
                if not any(seen or ()):
                    yield _event(chunk, with_usage=include_usage)
            elif is_new(index):
                yield _event(chunk, with_usage=include_usage, number=number())
        if include_usage and is_new(-1):
            last = form.usage(usage_of(generations, n_choices), timings_of(generations[0].usage))
            if last is not None:
                yield _event(last, number=number())
        if form.says_done:
            yield _DONE
    except CaravanError as error:
        yield _event(ErrorBody(error=error_info(error)))
    except Exception as error:
        _log.exception("a stream failed")
        yield _event(ErrorBody(error=error_info(error)))


async def _chunks(
    form: Form, generations: Sequence[AsyncGeneration]
) -> AsyncGenerator[tuple[int | None, BaseModel], None]:
    """Chunks as tokens come, each with the number of its generation; tokens that bring no text yet wait for one that
    does. What is told of prompts has no number: it is no part of the answer."""
    for index in range(len(generations)):
        opening = form.opening(index)
        if opening is not None:
            yield index, opening
    waiting: list[list[Token]] = [[] for _ in generations]
    source = merged(generations)
    try:
        async for event in source:
            index, token, tokens = event.index, event.token, waiting[event.index]
            if event.progress is not None:
                yield None, form.progress(index, event.progress)
                continue
            if token is not None:
                tokens.append(token)
            if tokens and (token is None or token.text):
                timings = timings_of(generations[index].usage) if form.is_timed else None
                for chunk in form.chunks(Piece(index, tuple(tokens), "" if token is None else token.text, timings)):
                    yield index, chunk
                tokens.clear()
            if token is None:
                for chunk in form.closing(finished_of(index, generations[index])):
                    yield index, chunk
    finally:
        await source.aclose()


def _written(body: BaseModel, *, with_usage: bool = True) -> bytes:
    """An answer, or a chunk of one, without what it does not tell."""
    exclude = body.absent if isinstance(body, Answer) else set()
    if not with_usage:
        exclude.add("usage")
    return body.model_dump_json(by_alias=True, exclude=exclude).encode()


def written_response(body: BaseModel) -> Response:
    """A whole answer."""
    return Response(_written(body), media_type="application/json")


def _event(body: BaseModel, *, with_usage: bool = True, number: str | None = None) -> bytes:
    head = b"" if number is None else b"id: " + number.encode() + b"\n"
    return head + b"data: " + _written(body, with_usage=with_usage) + b"\n\n"
