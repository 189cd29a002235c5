# SPDX-License-Identifier: MIT
"""What a caller holds while a request runs: the tokens as they come, then text, usage and the reason it ended.

`TokenStream` is the one shared object: the session fills it on its event loop, one of the two faces (`AsyncGeneration`
on the same loop, `Generation` in any other thread) takes from it. Dropping a face cancels the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from coordinator.errors import CaravanError
from coordinator.loop_thread import ThreadSignal

if TYPE_CHECKING:
    from coordinator.admission import AdmittedRequest


class FinishReason(str, Enum):
    """Why a request ended, in OpenAI's words where they have one. Equal to its string."""

    STOP = "stop"
    """The model said so (an end-of-generation token) or a stop string appeared."""
    LENGTH = "length"
    """`max_tokens` or the context was reached."""
    CANCELLED = "cancelled"
    """The caller called it off."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One of the likeliest tokens of a position."""

    id: int
    logprob: float
    piece: bytes


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    >>> told = SamplingParams(logprobs=True, n_top_logprobs=3)
    >>> for token in mesh.generate("Once upon a", sampling=told, max_tokens=4):
    ...     likely = {top.piece: math.exp(top.logprob) for top in token.top_logprobs}

    Attributes:
        id: The token id.
        text: What to show now. Empty while bytes of a character are missing or a stop string may be starting; the text
            held back comes with a later token, so that all texts joined are the whole text. If the model ends while
            text is held back, its end-of-generation token is delivered to carry it; otherwise that one is not shown.
        piece: The token's own bytes, whatever was held back.
        logprob: Of the unmodified distribution, natural logarithm; None unless asked for.
        top_logprobs: Likeliest first; empty unless asked for.
    """

    id: int
    text: str
    piece: bytes = b""
    logprob: float | None = None
    top_logprobs: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request took.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated, without the end-of-generation token.
        cached_tokens: Tokens of the prompt that were not computed again.
        guessed_tokens: Tokens generated that had been guessed, and took no trip of their own.
        drafted_tokens: All that were guessed for it, right or wrong.
        queued_s: From submission to the first frame, in seconds.
        prefill_s: From the first frame to the first token, in seconds.
        decode_s: From the first token to the end, in seconds.
    """

    prompt_tokens: int
    completion_tokens: int
    queued_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    cached_tokens: int = 0
    guessed_tokens: int = 0
    drafted_tokens: int = 0

    @property
    def decode_tokens_per_s(self) -> float:
        """Tokens after the first per second; 0 where there were none."""
        return (self.completion_tokens - 1) / self.decode_s if self.decode_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """How far a prompt is.

    Attributes:
        total_tokens: Of the prompt.
        cached_tokens: Of these, those that were not computed again.
        done_tokens: Those that are in the cache now, these included.
        elapsed_s: Since its first frame, in seconds.
    """

    total_tokens: int
    cached_tokens: int
    done_tokens: int
    elapsed_s: float


class Signal(Protocol):
    """What wakes the consumer of a stream: `ThreadSignal` or `asyncio.Event`."""

    def set(self) -> None:
        """Wakes it; must not wait."""


class TokenStream:
    """One request's tokens between the session that fills it (on its loop) and the face that takes from it.

    Only appended to until `ended`; then nothing changes any more. When `max_unread` tokens lie unread (None: any number
    may), the session pauses the request and sets `is_held`; the face that then has taken half of them calls `on_room`.
    They may be in two threads, and there is no lock: each first writes what the other looks at, then looks at what the
    other writes, so that at least one of them sees that there is room.

    Attributes:
        progress: How far its prompt is, each time that this became known; empty unless it was asked for.
        slot: The number of its place in its line; -1: it has had none.
        measure: While it runs, gives what it took until its last token.
    """

    __slots__ = (
        "_max_unread",
        "_n_taken",
        "_signal",
        "ended",
        "error",
        "finish_reason",
        "is_held",
        "measure",
        "on_room",
        "progress",
        "prompt_tokens",
        "slot",
        "tokens",
        "usage",
    )

    def __init__(self, prompt_tokens: tuple[int, ...], signal: Signal, max_unread: int | None = None) -> None:
        self.prompt_tokens = prompt_tokens
        self.is_held = False
        self.on_room: Callable[[], None] = nothing
        self._max_unread = max_unread
        self._n_taken = 0
        self.tokens: list[Token] = []
        self.ended = False
        self.finish_reason: FinishReason | None = None
        self.error: CaravanError | None = None
        self.usage: Usage | None = None
        self.progress: list[PromptProgress] = []
        self.slot = -1
        self.measure: Callable[[], Usage] | None = None
        self._signal = signal

    def note_progress(self, progress: PromptProgress) -> None:
        """More of its prompt is computed."""
        self.progress.append(progress)
        self._signal.set()

    def push(self, token: Token) -> None:
        """The next token."""
        self.tokens.append(token)
        self._signal.set()

    @property
    def is_full(self) -> bool:
        """Whether as many tokens lie unread as may."""
        return self._max_unread is not None and len(self.tokens) - self._n_taken >= self._max_unread

    @property
    def has_room(self) -> bool:
        """Whether no more than half of that lie unread."""
        return self._max_unread is None or 2 * (len(self.tokens) - self._n_taken) <= self._max_unread

    def take(self) -> Token | None:
        """The next token that has arrived; None if there is none now."""
        if self._n_taken == len(self.tokens):
            return None
        token = self.tokens[self._n_taken]
        self._n_taken += 1
        if self.is_held and self.has_room:
            self.on_room()
        return token

    def note_read(self, n_read: int) -> None:
        """Somebody who does not `take` has read so many."""
        if n_read > self._n_taken:
            self._n_taken = n_read
            if self.is_held and self.has_room:
                self.on_room()

    def lift(self) -> None:
        """From now on any number of tokens may lie unread."""
        self._max_unread = None
        if self.is_held:
            self.on_room()

    def finish(self, reason: FinishReason, usage: Usage) -> None:
        """Nothing more comes, and all is well."""
        self._end(usage, reason=reason)

    def fail(self, error: CaravanError, usage: Usage) -> None:
        """Nothing more comes, because of `error`."""
        self._end(usage, error=error)

    def _end(self, usage: Usage, *, reason: FinishReason | None = None, error: CaravanError | None = None) -> None:
        if self.ended:
            return
        self.finish_reason = reason
        self.error = error
        self.usage = usage
        self.measure = None
        self.ended = True
        self._signal.set()


def nothing() -> None:
    """Nobody waits for room, or there is nothing to call off."""


class _Face:
    """What both faces of a request share. Its destruction cancels the request if that still runs."""

    def __init__(self, stream: TokenStream, cancel: Callable[[], None]) -> None:
        self._stream = stream
        self._cancel = cancel

    @property
    def text(self) -> str:
        """The text so far; after the end, all of it."""
        return "".join([token.text for token in self._stream.tokens])

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens so far; after the end, all of them."""
        return tuple(self._stream.tokens)

    @property
    def prompt_tokens(self) -> tuple[int, ...]:
        """The prompt as the model sees it."""
        return self._stream.prompt_tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it runs and if it failed."""
        return self._stream.finish_reason

    @property
    def usage(self) -> Usage:
        """What it took; before the end, until its last token."""
        stream = self._stream
        measure = stream.measure  # before looking for the end, which takes it away
        if stream.usage is not None:
            return stream.usage
        return Usage(len(stream.prompt_tokens), len(stream.tokens)) if measure is None else measure()

    def cancel(self) -> None:
        """Calls the request off, from any thread; its slot is freed at once. Tokens that have arrived are still there,
        then iteration ends and `finish_reason` is CANCELLED. Without effect after the end."""
        if not self._stream.ended:
            self._cancel()

    def _take(self) -> Token | None:
        """The next token that has arrived; None if the consumer has to wait.

        Raises:
            CaravanError: What the request failed with.
            _Ended: There are no more.
        """
        stream = self._stream
        ended = stream.ended  # before looking at the tokens: none is added after it was set
        token = stream.take()
        if token is not None or not ended:
            return token
        if stream.error is not None:
            raise stream.error.with_traceback(None)  # one error of many requests: tracebacks would add up
        raise _EndedError

    def __del__(self) -> None:
        stream = getattr(self, "_stream", None)
        if stream is not None and not stream.ended:
            self._cancel()


class _EndedError(Exception):
    """Internal: the stream is exhausted."""


class AsyncGeneration(_Face):
    """A running request, for the event loop of its `AsyncMesh`: an async iterator of `Token`; awaiting it runs it to
    the end and gives back the same object.

    Raises (both ways):
        WorkerLostError, EngineError: The line broke.
        InvalidRequestError: The grammar admits no token.
        DeadlineError: It was not finished in its time.
        SlowReaderError: It was not read, and others waited.
        ClosedError: The mesh was closed meanwhile.
    """

    def __init__(
        self, stream: TokenStream, cancel: Callable[[], None], arrived: asyncio.Event, request: AdmittedRequest
    ) -> None:
        super().__init__(stream, cancel)
        self._arrived = arrived
        self.request = request

    @property
    def stream(self) -> TokenStream:
        """What fills it; to be looked at, not taken from."""
        return self._stream

    def reread(self, start: int = 0) -> Rereading:
        """The same from its `start`-th token on, once more, also when it has ended."""
        return Rereading(self._stream, self._arrived, self.request, start)

    def __aiter__(self) -> AsyncGeneration:
        return self

    async def __anext__(self) -> Token:
        while True:
            self._arrived.clear()
            try:
                token = self._take()
            except _EndedError:
                raise StopAsyncIteration from None
            if token is not None:
                return token
            await self._arrived.wait()

    async def prompt_progress(self) -> AsyncIterator[PromptProgress]:
        """How far its prompt is, as that becomes known (`tells_progress` in its options), until its first token or its
        end is there."""
        stream, n_told = self._stream, 0
        while True:
            self._arrived.clear()
            while n_told < len(stream.progress):
                n_told += 1
                yield stream.progress[n_told - 1]
            if stream.tokens or stream.ended:
                return
            await self._arrived.wait()

    async def begun(self) -> None:
        """Returns when the first token is there to be taken, or how far its prompt is, or it ended without a token.

        Raises:
            CaravanError: It failed without one.
        """
        stream = self._stream
        while not stream.tokens and not stream.progress and not stream.ended:
            self._arrived.clear()
            await self._arrived.wait()
        if not stream.tokens and stream.error is not None:
            raise stream.error.with_traceback(None)

    def __await__(self) -> Generator[object, None, AsyncGeneration]:
        return self._run_to_end().__await__()

    async def _run_to_end(self) -> AsyncGeneration:
        async for _ in self:
            pass
        return self

    async def aclose(self) -> None:
        """Cancels what still runs and returns when it has ended."""
        self.cancel()
        while not self._stream.ended:
            self._arrived.clear()
            await self._arrived.wait()


class Rereading(AsyncGeneration):
    """A generation that somebody else holds, read from a place on, by any number at once; to drop it or to call it off
    does not end it. Who reads furthest is who the request waits for, if for anybody.
    """

    def __init__(self, stream: TokenStream, arrived: asyncio.Event, request: AdmittedRequest, start: int = 0) -> None:
        super().__init__(stream, nothing, arrived, request)
        self._n_read = start

    def _take(self) -> Token | None:
        stream = self._stream
        if self._n_read < len(stream.tokens):
            self._n_read += 1
            stream.note_read(self._n_read)
            return stream.tokens[self._n_read - 1]
        if stream.ended:
            raise _EndedError if stream.error is None else stream.error.with_traceback(None)
        return None


class Generation(_Face):
    """A running request, for any one thread but the mesh's own: an iterator of `Token`.

    >>> generation = mesh.generate("Once upon a time", max_tokens=64)
    >>> first = next(generation)
    >>> generation.cancel()
    >>> text, usage = generation.wait().text, generation.usage

    Raises (iterating and `wait`):
        WorkerLostError, EngineError: The line broke.
        InvalidRequestError: The grammar admits no token.
        DeadlineError: It was not finished in its time.
        SlowReaderError: It was not read, and others waited.
        ClosedError: The mesh was closed meanwhile.
    """

    def __init__(self, stream: TokenStream, cancel: Callable[[], None], arrived: ThreadSignal) -> None:
        super().__init__(stream, cancel)
        self._arrived = arrived

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> Token:
        while True:
            try:
                token = self._take()
            except _EndedError:
                raise StopIteration from None
            if token is not None:
                return token
            self._arrived.wait()

    def wait(self) -> Generation:
        """Runs it to the end, blocking, and gives back itself."""
        for _ in self:
            pass
        return self

    def close(self) -> None:
        """Cancels what still runs and returns when it has ended."""
        self.cancel()
        while not self._stream.ended:
            self._arrived.wait()
