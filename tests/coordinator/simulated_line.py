# SPDX-License-Identifier: MIT
"""A line whose stages, links and draft model take the time they are said to take, so that what a schedule brings is
known to the digit and on any machine."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.frames import PlannedFrame, Request, SampledRow
from coordinator.offers import DraftContext, Offer
from coordinator.scheduler import Scheduler
from coordinator.sequence import Limits
from native import SamplingParams

_END, _WRONG = 0, 1
_N_PROMPT = 16


@dataclass(frozen=True)
class Times:
    """Of a frame of one token on a stage, of each token more as a share of that, of a link, of a guess."""

    stage_s: float = 0.007
    growth: float = 0.45
    link_s: float = 0.005
    guess_s: float = 0.002


@dataclass
class _Travelling:
    frame: PlannedFrame
    sent_s: float
    waited_s: float
    computed_s: list[float]
    is_void: bool = False


class SimulatedLine:
    """One stream through a scheduler.

    Args:
        right: How likely each guess of the draft model is right.
        hears_voids: Whether stages drop the frames that are said to be void; else they compute all.
    """

    def __init__(self, limits: Limits, times: Times, right: float, *, hears_voids: bool = True) -> None:
        self._times = times
        self._right = right
        self._scheduler = Scheduler(limits, [_END])
        self._chance = random.Random(0)
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._stages: list[deque[tuple[_Travelling, float]]] = [deque() for _ in range(limits.n_stages)]
        self._is_busy = [False] * limits.n_stages
        self._cache: list[int] = []
        self._last: int | None = None
        self._text: list[int] = []
        self._guesses: list[int] = []
        self._until = 0
        self._is_guessing = False
        self._token_times: list[float] = []
        self._hears = hears_voids
        self._voids: list[set[int]] = [set() for _ in range(limits.n_stages)]
        self.n_dropped = 0

    def tokens_per_s(self, n_tokens: int) -> float:
        """Of one request, after its first token."""
        prompt = tuple(map(_token, range(_N_PROMPT)))
        self._scheduler.submit(Request(1, prompt, n_tokens, SamplingParams()))
        self._send()
        while self._events:
            self._now_s, _, event = heapq.heappop(self._events)
            event()
        assert len(self._token_times) == n_tokens
        return (n_tokens - 1) / (self._token_times[-1] - self._token_times[0])

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now_s + seconds, next(self._numbers), event))

    def _send(self) -> None:
        for context in self._scheduler.take_draft_contexts():
            self._take(context)
        if (numbers := self._scheduler.take_voids()) and self._hears:
            for stage, voids in enumerate(self._voids):
                self._after((stage + 1) * self._times.link_s, lambda voids=voids: voids.update(numbers))  # type: ignore[misc]
        while (frame := self._scheduler.next_frame()) is not None:
            travelling = _Travelling(frame, self._now_s, 0.0, [])
            self._after(self._times.link_s, lambda travelling=travelling: self._arrive(travelling, 0))  # type: ignore[misc]

    # ---- stages ----

    def _arrive(self, travelling: _Travelling, stage: int) -> None:
        if stage == len(self._stages):
            self._result(travelling)
            return
        self._stages[stage].append((travelling, self._now_s))
        self._begin(stage)

    def _begin(self, stage: int) -> None:
        if self._is_busy[stage] or not self._stages[stage]:
            return
        travelling, arrived_s = self._stages[stage].popleft()
        travelling.is_void |= travelling.frame.number in self._voids[stage]
        n_more = len(travelling.frame.tokens) - 1
        seconds = 0.0 if travelling.is_void else self._times.stage_s * (1 + self._times.growth * n_more)
        travelling.waited_s += self._now_s - arrived_s
        travelling.computed_s.append(seconds)
        self._is_busy[stage] = True
        self._after(seconds, lambda: self._end(travelling, stage))

    def _end(self, travelling: _Travelling, stage: int) -> None:
        self._is_busy[stage] = False
        self._after(self._times.link_s, lambda: self._arrive(travelling, stage + 1))
        self._begin(stage)

    def _result(self, travelling: _Travelling) -> None:
        frame = travelling.frame
        for operation in frame.operations:
            del self._cache[getattr(operation, "start", 0) :]
        if travelling.is_void:
            self.n_dropped += 1
            self._scheduler.result(frame.number, [])
            self._send()
            return
        rows = []
        for row, token in enumerate(frame.tokens):
            self._cache.append(token)
            if row in frame.outputs:
                is_passed_over = row in frame.drafts and token != self._last
                self._last = None if is_passed_over else _token(len(self._cache))
                rows.append(SampledRow(0, self._last))
        at_stages_s = travelling.waited_s + sum(travelling.computed_s)
        beside_s = self._now_s - travelling.sent_s - at_stages_s
        self._scheduler.pace.observe(len(frame.tokens), travelling.computed_s, beside_s)
        self._token_times += [self._now_s for _ in self._scheduler.result(frame.number, rows)]
        self._send()

    # ---- the draft model ----

    def _take(self, context: DraftContext) -> None:
        before = (self._text + self._guesses)[context.start :]
        new = list(context.tokens)
        self._text[context.start :] = new
        self._guesses = before[len(new) :] if before[: len(new)] == new else []
        self._until = context.until
        self._guess()

    def _guess(self) -> None:
        if not self._is_guessing and len(self._text) + len(self._guesses) < self._until:
            self._is_guessing = True
            n_known, whole = len(self._text), self._text + self._guesses
            self._after(self._times.guess_s, lambda: self._guessed(n_known, whole))

    def _guessed(self, n_known: int, whole: list[int]) -> None:
        self._is_guessing = False
        is_right = _WRONG not in whole and self._chance.random() < self._right
        token = _token(len(whole)) if is_right else _WRONG
        if (self._text + self._guesses)[: len(whole)] == whole:
            self._guesses = [*whole, token][len(self._text) :]
        if self._scheduler.offer(Offer(1, n_known, len(whole), (token,), self._times.guess_s)):
            self._send()
        self._guess()


def _token(position: int) -> int:
    """What the text has there."""
    return position * 7919 % 1000 + 10
