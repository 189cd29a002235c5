# SPDX-License-Identifier: MIT
"""The requests of a session: the stream that each fills, and what may end it before its last token: its client, its
deadline, a stop string, a reader who does not keep up. On the session's event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Sequence

from coordinator.admission import AdmittedRequest
from coordinator.errors import CaravanError, DeadlineError, InvalidRequestError, PoisonError, SlowReaderError
from coordinator.frames import Outcome, PlannedFrame, Request, SampledRow
from coordinator.generation import FinishReason, Signal, Token, TokenStream, TopLogprob
from coordinator.running import RunningRequest
from coordinator.scheduler import Scheduler
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


class Requests:
    """Those that wait or run.

    Args:
        piece: The bytes of a token, none for control tokens.
        send_soon: Called when there may be something new to send.

    Attributes:
        patience_s: How long a paused request keeps its slot, in seconds, when others wait for it.
    """

    def __init__(self, scheduler: Scheduler, piece: Callable[[int], bytes], send_soon: Callable[[], None]) -> None:
        self._scheduler = scheduler
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
            ),
            [token.id for token in before],
        )
        stream = TokenStream(request.prompt, signal, request.max_unread)
        stream.tokens += before
        running = self._running[request_id] = RunningRequest(stream, TextStream(request.stop), time.monotonic())
        running.n_tokens = running.n_at_break = len(before)
        for token in before:
            running.text.push(self._piece(token.id))
        if request.timeout_s is not None:
            running.deadline = self._after(request.timeout_s, self._expire, request_id, request.timeout_s)
        self._end_stuck()
        self._send_soon()
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
            if running.first_token_s == 0.0:
                running.first_token_s = now_s
            if outcome.failed:
                self._end_with(outcome.request_id, InvalidRequestError(outcome.failed))
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
        piece = self._piece(row.token)
        part = running.text.push(piece)
        text = part.text
        if outcome.finish is not None and not part.stopped:
            text += running.text.finish().text
        if row.logprob is None:
            running.stream.push(Token(row.token, text, piece))
        else:
            running.stream.push(Token(row.token, text, piece, row.logprob, self._top(row)))
        return part.stopped

    def _end(self, request_id: int, reason: FinishReason) -> bool:
        """Ends a request well; whether it was still there."""
        running = self._running.pop(request_id, None)
        if running is None:
            return False
        self._scheduler.end(request_id)
        running.stop_timers()
        running.stream.finish(reason, running.usage(time.monotonic()))
        return True

    def _end_with(self, request_id: int, error: CaravanError) -> None:
        running = self._running.pop(request_id, None)
        if running is not None:
            self._scheduler.end(request_id)
            running.stop_timers()
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

    def _piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece_of(token)
        return piece

    def _top(self, row: SampledRow) -> tuple[TopLogprob, ...]:
        return tuple(TopLogprob(token, logprob, self._piece(token)) for token, logprob in row.top)
