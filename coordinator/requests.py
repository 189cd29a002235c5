# SPDX-License-Identifier: MIT
"""The requests of a session: the stream that each fills, and what may end it before its last token: its client, its
deadline, a stop string, a reader who does not keep up. On the session's event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from coordinator.admission import AdmittedRequest
from coordinator.embeddings import AdmittedEmbedding, VectorStream
from coordinator.errors import CaravanError, DeadlineError, InvalidRequestError, PoisonError, SlowReaderError
from coordinator.frames import EmbeddingRequest, Outcome, PlannedFrame, Prefilled, Request, SampledRow
from coordinator.generation import FinishReason, PromptProgress, Signal, Token, TokenStream, TopLogprob
from coordinator.running import RunningRequest
from coordinator.scheduler import Scheduler
from coordinator.tally import FAILED, Tally
from coordinator.text import TextStream

_MOST_BREAKS = 3
"""Lines that may break while they compute a request, before it has another token: then it is the request."""

_MOST_LINK_BREAKS = 10
"""The same for those that break because a worker cannot be reached that is there. That is seldom the request; unless
its frames are too large for a slow link."""

_PATIENCE_S = 120.0
"""How long a request may stay paused at a time before its slot is given to others that wait. By then its reader has
taken less than half of `max_unread` tokens: not one a second, where reading aloud takes two or three; and those who
wait have not yet given up, which common clients do after ten minutes."""


class PieceOf(Protocol):
    """Bytes of a token, as `Vocabulary.piece` gives them."""

    def __call__(self, token: int, *, special: bool = False) -> bytes: ...


class Requests:
    """Those that wait or run.

    Args:
        piece: The bytes of a token, none for control tokens unless they are asked for as `special`.
        send_soon: Called when there may be something new to send.
        tally: Where what becomes of them is counted.

    Attributes:
        patience_s: How long a paused request keeps its slot, in seconds, when others wait for it.
    """

    def __init__(self, scheduler: Scheduler, piece: PieceOf, send_soon: Callable[[], None], tally: Tally) -> None:
        self._scheduler = scheduler
        self._tally = tally
        self._piece_of = piece
        self._pieces: dict[int, bytes] = {}
        self._send_soon = send_soon
        self.patience_s = _PATIENCE_S
        self._running: dict[int, RunningRequest] = {}
        self._ids = itertools.count(1)

    @property
    def n_paused(self) -> int:
        """Of those with a slot, those that wait for their readers."""
        return sum(running.stream.is_held for running in self._running.values())

    @property
    def is_any_doubtful(self) -> bool:
        """Whether one of them may be what breaks lines."""
        return any(running.n_breaks > 1 for running in self._running.values())

    def submit(self, request: AdmittedRequest, signal: Signal, before: Sequence[Token] = ()) -> tuple[int, TokenStream]:
        """Takes up a request; gives its id and the stream its tokens will come in.

        Args:
            before: Tokens that another session generated of it, with which the stream begins: not all, and no end.

        Raises:
            OverloadedError: Slots and queue are full.
            ClientLimitError: Its client has as many requests as it may.
        """
        request_id = next(self._ids)
        self._scheduler.submit(
            Request(
                request_id,
                request.prompt,
                request.max_tokens,
                request.sampling,
                request.cache_prompt,
                request.client,
                request.priority,
                request.n_keep,
                request.tells_progress,
            ),
            [token.id for token in before],
        )
        stream = TokenStream(request.prompt, signal, request.max_unread)
        stream.tokens += before
        running = self._running[request_id] = RunningRequest(stream, TextStream(request.stop), time.monotonic())
        running.n_tokens = running.n_at_break = len(before)
        running.visible = request.sampling.visible_tokens
        stream.measure = running.usage_so_far
        for token in before:
            running.text.push(self._piece(running, token.id))
        self._begin(request_id, running, request.timeout_s)
        return request_id, stream

    def embed(self, request: AdmittedEmbedding, signal: Signal) -> tuple[int, VectorStream]:
        """As `submit`, for inputs to be embedded; the stream has their vectors when it has ended."""
        request_id = next(self._ids)
        self._scheduler.submit_embedding(EmbeddingRequest(request_id, request.inputs, request.client, request.priority))
        stream = VectorStream(request.inputs, signal)
        running = self._running[request_id] = RunningRequest(stream, TextStream(()), time.monotonic())
        self._begin(request_id, running, request.timeout_s)
        return request_id, stream

    def cancel(self, request_id: int) -> None:
        """Calls a request off; nothing happens if it has ended."""
        if self._end(request_id, FinishReason.CANCELLED):
            self._send_soon()

    def resume(self, request_id: int) -> None:
        """Its reader has taken tokens: goes on with a request that was paused, if there is room in its stream."""
        running = self._running.get(request_id)
        if running is not None and running.stream.is_held and running.stream.has_room:
            running.stream.is_held = running.is_stuck = False
            assert running.patience is not None
            running.patience.cancel()
            self._scheduler.resume(request_id)
            self._send_soon()

    def deliver(self, outcomes: Iterable[Outcome]) -> bool:
        """Hands tokens on; whether a stop string ended a request, so that there may be more to send."""
        now_s = time.monotonic()
        stopped = False
        for outcome in outcomes:
            running = self._running.get(outcome.request_id)
            if running is None:
                continue  # cancelled while the frames above were sent
            self._note_time(running, now_s)
            if outcome.failed:
                self._end_with(outcome.request_id, InvalidRequestError(outcome.failed))
            elif outcome.embedded is not None:
                assert isinstance(running.stream, VectorStream)
                running.n_vectors += 1
                running.stream.keep(outcome.embedded)
                if outcome.finish is not None:
                    self._end(outcome.request_id, outcome.finish)
            elif self._push(running, outcome):
                stopped |= self._end(outcome.request_id, FinishReason.STOP)
            elif outcome.finish is not None:
                self._end(outcome.request_id, outcome.finish)
            elif running.stream.is_full and not running.stream.is_held:
                self._pause(outcome.request_id, running)
        return stopped

    def note_starts(self, frame: PlannedFrame) -> None:
        """A frame is sent, with which requests begin."""
        now_s = time.monotonic()
        for start in frame.starts:
            running = self._running.get(start.request.id)
            if running is not None and not running.started_s:
                running.started_s = now_s
                running.n_reused = start.n_reused
                running.stream.slot = start.seq_id
                if start.request.tells_progress:
                    self.note_prefilled([Prefilled(start.request.id, start.n_reused)])
                self._tally.queued.note(now_s - running.submitted_s)

    def note_prefilled(self, prefilled: Iterable[Prefilled]) -> None:
        """Tells requests how far their prompts are. One that is prefilled again, because the line broke, goes on where
        it was."""
        for each in prefilled:
            running = self._running.get(each.request_id)
            if running is None:
                continue
            told = running.stream.progress
            if not told or each.n_tokens > told[-1].done_tokens:
                n_prompt, elapsed_s = len(running.stream.prompt_tokens), time.monotonic() - running.started_s
                running.stream.note_progress(PromptProgress(n_prompt, running.n_reused, each.n_tokens, elapsed_s))

    def note_break(self, under_way: Sequence[int], reason: CaravanError, *, is_of_link: bool) -> None:
        """The line broke for that reason; what these frames were of takes note, and those end that lines break with
        again and again while none of their tokens comes in between."""
        for request_id in under_way:
            running = self._running.get(request_id)
            if running is None:
                continue
            running.note_break(is_of_link=is_of_link)
            if running.n_breaks >= _MOST_BREAKS or running.n_link_breaks >= _MOST_LINK_BREAKS:
                self._end_with(request_id, PoisonError(running.n_breaks + running.n_link_breaks, reason))

    def fail(self, error: CaravanError) -> None:
        """Ends all of them."""
        for request_id in list(self._running):
            self._end_with(request_id, error)

    def _begin(self, request_id: int, running: RunningRequest, timeout_s: float | None) -> None:
        if timeout_s is not None:
            running.deadline = self._after(timeout_s, self._expire, request_id, timeout_s)
        self._end_stuck()
        self._send_soon()

    def _note_time(self, running: RunningRequest, now_s: float) -> None:
        """A token came, or what ends the request in its place."""
        if running.last_token_s:
            self._tally.next_token.note(now_s - running.last_token_s)
        else:
            running.first_token_s = now_s
            if not running.n_tokens:  # one that goes on where another coordinator left it had its first one there
                self._tally.first_token.note(now_s - running.submitted_s)
        running.last_token_s = now_s

    def _push(self, running: RunningRequest, outcome: Outcome) -> bool:
        """Hands one token on; whether its text completed a stop string."""
        row = outcome.row
        assert row.token is not None
        if outcome.is_end:
            rest = running.text.finish()
            if rest.text:
                running.stream.push(Token(row.token, rest.text))
            return False
        running.n_tokens += 1
        running.n_guessed += outcome.was_guessed
        running.n_drafted = outcome.n_drafted
        self._tally.note_token(was_guessed=outcome.was_guessed)
        piece = self._piece(running, row.token)
        part = running.text.push(piece)
        text = part.text
        if outcome.finish is not None and not part.stopped:
            text += running.text.finish().text
        if row.logprob is None:
            running.stream.push(Token(row.token, text, piece))
        else:
            running.stream.push(Token(row.token, text, piece, row.logprob, self._top(running, row)))
        return part.stopped

    def _end(self, request_id: int, reason: FinishReason) -> bool:
        """Ends a request well; whether it was still there."""
        running = self._running.pop(request_id, None)
        if running is None:
            return False
        self._scheduler.end(request_id)
        running.stop_timers()
        self._tally.ended[reason] += 1
        running.stream.finish(reason, running.usage(time.monotonic()))
        return True

    def _end_with(self, request_id: int, error: CaravanError) -> None:
        running = self._running.pop(request_id, None)
        if running is not None:
            self._scheduler.end(request_id)
            running.stop_timers()
            self._tally.ended[FAILED] += 1
            running.stream.fail(error, running.usage(time.monotonic()))

    def _expire(self, request_id: int, timeout_s: float) -> None:
        """Its time is over."""
        self._end_with(request_id, DeadlineError(timeout_s, self._running[request_id].n_tokens))
        self._send_soon()

    def _pause(self, request_id: int, running: RunningRequest) -> None:
        """Its reader does not keep up."""
        running.stream.is_held = True
        self._scheduler.pause(request_id)
        running.patience = self._after(self.patience_s, self._lose_patience, running)
        # A reader in another thread that took the last token before it could see that the stream is held.
        self.resume(request_id)

    def _lose_patience(self, running: RunningRequest) -> None:
        running.is_stuck = True
        self._end_stuck()

    def _end_stuck(self) -> None:
        """Gives the slots of those whose readers are stuck to as many as wait for one."""
        if not self._scheduler.n_waiting:
            return
        for request_id in [number for number, running in self._running.items() if running.is_stuck]:
            if self._scheduler.n_waiting:
                self._end_with(request_id, SlowReaderError(self.patience_s))
                self._send_soon()

    @staticmethod
    def _after(delay_s: float, call: Callable[..., None], *arguments: object) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay_s, call, *arguments)

    def _piece(self, running: RunningRequest, token: int) -> bytes:
        if token in running.visible:
            return self._piece_of(token, special=True)
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece_of(token)
        return piece

    def _top(self, running: RunningRequest, row: SampledRow) -> tuple[TopLogprob, ...]:
        return tuple(TopLogprob(token, logprob, self._piece(running, token)) for token, logprob in row.top)
