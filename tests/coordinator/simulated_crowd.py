# SPDX-License-Identifier: MIT
"""Many streams over a line of two stages that take what a CPU's do, and a prompt that comes to them: what the scheduler
makes of that is known to the digit and on any machine."""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from coordinator.frames import PlannedFrame, Request, SampledRow
from coordinator.scheduler import Scheduler
from coordinator.sequence import Limits
from native import SamplingParams

_N_STAGES = 2
_HOP_S = 0.0005
_END, _WORD = 0, 7
_PROMPT = -1
"""The id of the prompt's request."""


@dataclass
class _Travelling:
    frame: PlannedFrame
    sent_s: float
    computed_s: list[float] = field(default_factory=list)
    waited_s: float = 0.0


class SimulatedCrowd:
    """So many streams, each begun with two tokens."""

    def __init__(self, n_streams: int) -> None:
        limits = Limits(n_streams + 1, 512, 4096, _N_STAGES, 0, 512)
        self._scheduler = Scheduler(limits, [_END])
        self._streams = range(n_streams)
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._queues: list[deque[tuple[_Travelling, float]]] = [deque() for _ in range(_N_STAGES)]
        self._is_busy = [False] * _N_STAGES
        self._at_s: dict[int, list[float]] = {}
        for number in self._streams:
            self._submit(number, (5, 6 + number), 3000)

    def run_streams(self, n_tokens: int) -> None:
        """Until they have so many on average."""
        self._run(lambda: sum(map(len, self._at_s.values())) >= n_tokens * len(self._streams))

    def run_prompt(self, n_tokens: int) -> float:
        """Seconds until the first token that follows a prompt of so many."""
        start_s = self._now_s
        self._submit(_PROMPT, tuple(range(10, 10 + n_tokens)), 1)
        self._run(lambda: bool(self._at_s[_PROMPT]))
        return self._now_s - start_s

    def gaps_s(self, last_s: float) -> list[float]:
        """Seconds between the tokens of one stream, of those in the last so many seconds, of all streams."""
        start_s = self._now_s - last_s
        late = ([at_s for at_s in self._at_s[number] if at_s >= start_s] for number in self._streams)
        return [after - before for at_s in late for before, after in itertools.pairwise(at_s)]

    def median_gap_s(self) -> float:
        """Of all so far."""
        return statistics.median(self.gaps_s(self._now_s))

    def _submit(self, request_id: int, prompt: tuple[int, ...], n_tokens: int) -> None:
        self._at_s[request_id] = []
        self._scheduler.submit(Request(request_id, prompt, n_tokens, SamplingParams(), reuse=False))
        self._send()

    def _run(self, until: Callable[[], bool]) -> None:
        while not until():
            self._now_s, _, event = heapq.heappop(self._events)
            event()

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now_s + seconds, next(self._numbers), event))

    def _send(self) -> None:
        while (frame := self._scheduler.next_frame()) is not None:
            travelling = _Travelling(frame, self._now_s)
            self._after(_HOP_S, lambda travelling=travelling: self._arrive(travelling, 0))  # type: ignore[misc]

    def _arrive(self, travelling: _Travelling, stage: int) -> None:
        if stage == _N_STAGES:
            self._result(travelling)
            return
        self._queues[stage].append((travelling, self._now_s))
        self._begin(stage)

    def _begin(self, stage: int) -> None:
        if self._is_busy[stage] or not self._queues[stage]:
            return
        travelling, arrived_s = self._queues[stage].popleft()
        travelling.waited_s += self._now_s - arrived_s
        travelling.computed_s.append(stage_s(travelling.frame))
        self._is_busy[stage] = True
        self._after(travelling.computed_s[-1], lambda: self._end(travelling, stage))

    def _end(self, travelling: _Travelling, stage: int) -> None:
        self._is_busy[stage] = False
        self._after(_HOP_S, lambda: self._arrive(travelling, stage + 1))
        self._begin(stage)

    def _result(self, travelling: _Travelling) -> None:
        frame, computed_s = travelling.frame, travelling.computed_s
        beside_s = self._now_s - travelling.sent_s - travelling.waited_s - sum(computed_s)
        chunk_at = None if frame.is_decode else statistics.fmean(frame.positions)
        self._scheduler.pace.observe(len(frame.tokens), computed_s, beside_s, chunk_at)
        rows = [SampledRow(frame.seq_ids[row], _WORD) for row in frame.outputs]
        for outcome in self._scheduler.result(frame.number, rows):
            self._at_s[outcome.request_id].append(self._now_s)
        self._send()


def stage_s(frame: PlannedFrame) -> float:
    """Seconds of 12 layers of the benchmark's model on one core, as measured: llama.cpp's flash attention is cheaper
    by the position for 64 tokens of one sequence and more."""
    n_tokens = len(frame.tokens)
    is_tiled = max(Counter(frame.seq_ids).values()) >= 64
    fixed_s = 0.0065 if n_tokens == 1 else 0.012 if n_tokens <= 8 else 0.009
    each_s = 0.0032 if n_tokens < 64 else 0.00295 if n_tokens < 256 else 0.0031
    return fixed_s + each_s * n_tokens + (1.6e-6 if is_tiled else 3.9e-6) * sum(frame.positions)
