# SPDX-License-Identifier: MIT
"""A session: the requests of one line of workers, and of the lines that follow it where it breaks. Drives the scheduler
with what the line brings, and the line with what the scheduler says; `requests` hands tokens to their streams.
Lives on one event loop, and everything here runs there.

The main path is `_work`: receive a result, let the scheduler decide, send what is ready, and only then, while the line
computes, turn tokens into text. A decoded token costs one read and one write.

When the line breaks, the session has none for a while: requests keep their slots, texts and streams, new ones queue.
`recovery` is told, and brings another line (`carry_on`), or says that there is none (`give_up`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence

from coordinator.admission import AdmittedRequest
from coordinator.embeddings import AdmittedEmbedding, VectorStream
from coordinator.errors import (
    CaravanError,
    ClosedError,
    EngineError,
)
from coordinator.frame_log import FrameLog
from coordinator.frames import LineResult
from coordinator.generation import Signal, Token, TokenStream
from coordinator.line import Line, LineBrokenError
from coordinator.offers import DraftContext, Offer
from coordinator.pace import Pace
from coordinator.requests import PieceOf, Requests
from coordinator.scheduler import Scheduler
from coordinator.sequence import Limits
from coordinator.slot_state import SlotState, slot_states
from coordinator.tally import Tally
from coordinator.timings import MeasuredTokens, TokenTimings

_LOG = logging.getLogger(__name__)

_END_TIMEOUT_S = 5.0
"""For the frames in flight when a session is closed."""

_LEAVING_TICK_S = 0.002
"""How often is looked whether a line that is left has come to its end: about what a frame takes."""


class Session:
    """The requests that share one line. It has none before `carry_on`.

    Args:
        scheduler: Fresh.
        piece: As `Requests` takes it.
        on_broken: Called with a line that broke, once; the session has let go of it.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        piece: PieceOf,
        on_broken: Callable[[Line], None],
    ) -> None:
        self._line: Line | None = None
        self._line_tasks: set[asyncio.Task[None]] = set()
        self._on_broken = on_broken
        self._scheduler = scheduler
        self.tally = Tally()
        self._requests = Requests(scheduler, piece, self._send_soon, self.tally)
        self._sending = asyncio.Lock()
        self._is_leaving = False
        self._timings = TokenTimings()
        self.frames = FrameLog(scheduler.limits.n_stages)
        self._tell_draft_model: Callable[[Sequence[DraftContext]], None] | None = None
        self._error: CaravanError | None = None
        self._broken_under: Sequence[int] = ()
        self._is_over = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def error(self) -> CaravanError | None:
        """Why it serves no more; None while it does."""
        return self._error

    @property
    def is_over(self) -> bool:
        """Whether it is closed, or failed by a fault of ours: no line would help."""
        return self._is_over

    @property
    def n_in_flight(self) -> int:
        """Frames in the line."""
        return 0 if self._line is None else self._scheduler.n_in_flight

    @property
    def n_dropped(self) -> int:
        """Frames of its line that were void, and not computed by all stages."""
        return self._scheduler.n_dropped

    @property
    def is_suspended(self) -> bool:
        """Whether its line broke, and no other carries on yet."""
        return self._line is None

    @property
    def n_running(self) -> int:
        """Requests with a slot."""
        return self._scheduler.n_running

    @property
    def n_waiting(self) -> int:
        """Requests in the queue."""
        return self._scheduler.n_waiting

    @property
    def n_tokens_left(self) -> int:
        """The most that any request may still have that runs."""
        return max((each.request.max_tokens - each.n_generated for each in self._scheduler.running), default=0)

    @property
    def n_tokens_held(self) -> int:
        """Prompts and what was sampled of all that run: what another line would prefill."""
        return sum(len(each.text) for each in self._scheduler.running)

    @property
    def n_prompt_tokens(self) -> int:
        """Of all requests that were begun."""
        return self._scheduler.n_prompt_tokens

    @property
    def n_reused_tokens(self) -> int:
        """Of these, those that were in the cache."""
        return self._scheduler.n_reused_tokens

    @property
    def n_paused(self) -> int:
        """Of those with a slot, those that wait for their readers."""
        return self._requests.n_paused

    @property
    def slots(self) -> tuple[SlotState, ...]:
        """Each of its slots, with the request that has it."""
        return slot_states(self._scheduler.limits, self._scheduler.running)

    @property
    def measured(self) -> MeasuredTokens | None:
        """How long tokens of lone streams took; None: there were none."""
        return self._timings.measured()

    def carry_on(self, line: Line, limits: Limits, pace: Pace) -> int:
        """Goes on over this line, which the session closes from now on: what runs is prefilled again, what waits goes
        on waiting. Gives the number of streams that run. The session has no other line.

        Args:
            limits: As the scheduler's, but for the stages.
        """
        assert self._line is None, "a session has one line at a time"
        self._line, self._error = line, None
        self._sending = asyncio.Lock()  # who still sends into the old line has the old one
        self._scheduler.restart(limits, pace, one_by_one=self._requests.is_any_doubtful)
        self.frames, self._timings = FrameLog(limits.n_stages), TokenTimings()
        self.tally.begin_line(line.workers)
        for work in (self._work(line), line.wait_until_fed(), self._send_ready()):
            self._line_tasks.add(self._spawn(work, line))
        return self._scheduler.n_running

    async def leave(self, line: Line) -> bool:
        """Sends nothing more into its line, waits until all that is in it has come back, and has none then: whoever
        calls this brings another. False: it broke meanwhile, or the session is over."""
        self._is_leaving = True
        try:
            while line is self._line and self.n_in_flight:  # noqa: ASYNC110 -- an event would cost each frame
                await asyncio.sleep(_LEAVING_TICK_S)
            if line is not self._line or self._is_over:
                return False
            self._line = None
            for task in self._line_tasks:
                task.cancel()
            return True
        finally:
            self._is_leaving = False
            if self._line is not None:
                self._send_soon()

    def give_up(self, error: CaravanError, *, for_good: bool = False) -> None:
        """There is no line to carry on: all requests end with this error, and new ones are refused with it.

        Args:
            for_good: None is to be looked for; else there may be one again.
        """
        self._is_over |= for_good
        self._fail(error)

    def note_break(self, reason: CaravanError, *, is_of_link: bool) -> None:
        """Why the line broke that is gone. Ends the requests that lines break with again and again, and none of their
        tokens comes in between."""
        self._requests.note_break(self._broken_under, reason, is_of_link=is_of_link)

    def draft_with(self, tell: Callable[[Sequence[DraftContext]], None]) -> None:
        """A draft model takes what this tells it, and answers with `offer`. Before the first request."""
        self._tell_draft_model = tell

    def offer(self, offer: Offer | None) -> None:
        """The draft model has guessed; None: it has failed, and does no more."""
        if offer is None:
            self._scheduler.end_offers()
        if offer is None or self._scheduler.offer(offer):
            self._send_soon()

    def draft_again(self) -> None:
        """There is a draft model once more, which knows nothing so far."""
        self._scheduler.begin_offers()
        self._send_soon()

    def submit(self, request: AdmittedRequest, signal: Signal, before: Sequence[Token] = ()) -> tuple[int, TokenStream]:
        """Takes up a request; gives its id and the stream its tokens will come in.

        Args:
            before: Tokens that another session generated of it, with which the stream begins: not all, and no end.

        Raises:
            OverloadedError: Slots and queue are full.
            ClientLimitError: Its client has as many requests as it may.
            CaravanError: The session serves no more, and why.
        """
        if self._error is not None:
            raise self._error.with_traceback(None)  # raised for many: tracebacks would add up
        return self._requests.submit(request, signal, before)

    def embed(self, request: AdmittedEmbedding, signal: Signal) -> tuple[int, VectorStream]:
        """As `submit`, for inputs to be embedded; the stream has their vectors when it has ended."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        return self._requests.embed(request, signal)

    def cancel(self, request_id: int) -> None:
        """Calls a request off; nothing happens if it has ended."""
        self._requests.cancel(request_id)

    def resume(self, request_id: int) -> None:
        """Its reader has taken tokens: goes on with a request that was paused, if there is room in its stream."""
        self._requests.resume(request_id)

    async def close(self) -> None:
        """Fails what still runs with ClosedError, lets the line finish what is in it, and closes that."""
        self._is_over = True
        self._fail(ClosedError())
        line = self._line
        if line is not None:
            with contextlib.suppress(asyncio.TimeoutError, LineBrokenError):
                await asyncio.wait_for(self._end_line(line), _END_TIMEOUT_S)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if line is not None:
            await line.close()

    # ---- the main path ----

    async def _work(self, line: Line) -> None:
        while True:
            result = await line.receive()
            if result.can_return:
                self._scheduler.note_returns()
            outcomes = self._scheduler.result(result.number, result.rows)
            self._note_result(result, sum(outcome.embedded is None for outcome in outcomes))
            if prefilled := self._scheduler.take_prefilled():
                self._requests.note_prefilled(prefilled)
            try:
                await self._send_ready()
            finally:  # also where the line breaks just now: what came of it counts
                stopped = self._requests.deliver(outcomes)
            if stopped:
                await self._send_ready()

    async def _send_ready(self) -> None:
        """Sends all frames that may go now. If another task is at it, that one takes these along."""
        if self._tell_draft_model is not None:
            self._tell_draft_model(self._scheduler.take_draft_contexts())
        line = self._line
        if line is None or self._is_leaving or self._sending.locked():
            return
        async with self._sending:
            while line is self._line and not self._is_leaving:
                if voids := self._scheduler.take_voids():
                    await line.call_void(voids)
                    continue
                frame = self._scheduler.next_frame()
                if frame is None:
                    break
                if frame.starts:
                    self._requests.note_starts(frame)
                is_lone = frame.is_decode and len(frame.tokens) == 1
                self._timings.sent(frame.number, is_decode_of_one=is_lone, follows=frame.follows)
                self.frames.sent(frame, time.monotonic())
                await line.send(frame)

    def _send_soon(self) -> None:
        self._spawn(self._send_ready())

    def _note_result(self, result: LineResult, n_generated: int) -> None:
        now_s = time.monotonic()
        has_rows = bool(result.rows)
        frame = self.frames.received(result.number, result.stages, now_s, n_generated, has_rows=has_rows)
        if frame is None:
            return
        self.tally.note_frame(frame)
        if frame.n_tokens:
            self._timings.received(frame.number, frame.computed_s, now_s)
        if frame is not None and frame.n_tokens and not frame.is_embedding:
            self._scheduler.pace.observe(frame.n_tokens, frame.computed_s, frame.beside_s, frame.chunk_at)

    # ---- the end ----

    async def _end_line(self, line: Line) -> None:
        async with self._sending:
            await line.finish()

    def _spawn(self, work: Coroutine[object, object, None], line: Line | None = None) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._guard(work, line))
        for tasks in (self._tasks, self._line_tasks):
            task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: work.close())  # one that was cancelled before it began never got to it
        self._tasks.add(task)
        return task

    async def _guard(self, work: Coroutine[object, object, None], line: Line | None) -> None:
        """Runs a part of the session.

        Args:
            line: What it receives from, so that it knows best when that breaks.
        """
        try:
            await work
        except LineBrokenError:
            if line is not None and line is self._line and not self._is_over:
                self._suspend(line)
        except Exception as error:
            # Nothing may hang because of a fault of ours: all requests end, and the log has the place.
            _LOG.exception("the session failed")
            worker = "" if self._line is None else self._line.workers[-1]
            self.give_up(EngineError(f"the session failed: {error}", worker=worker), for_good=True)

    def _suspend(self, line: Line) -> None:
        """The line broke: nothing more is sent or taken, and whoever else uses it ends."""
        self._line = None
        self.frames.forget_in_flight()
        self._broken_under = self._scheduler.under_way()
        for task in self._line_tasks:
            task.cancel()
        self._on_broken(line)

    def _fail(self, error: CaravanError) -> None:
        if self._error is not None:
            return
        self._error = error
        self._scheduler.close()
        self._requests.fail(error)
