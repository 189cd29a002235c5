# SPDX-License-Identifier: MIT
"""What goes into the next frame: continuous batching as a state machine. Pure: events in (submit, end, result),
frames and outcomes out; no clock, no I/O. The session calls it on its event loop.

Each running request has a slot, which is its sequence id in every stage's KV cache. A request's prompt goes in chunks
of at most `n_batch` tokens, one request per frame and cut as llama.cpp's own callers cut it, so that a request alone in
the line computes exactly what it would compute on one machine. Chunks follow each other down the line without waiting.
All sequences that have a token to decode share one decode frame, and one such frame is in the line at a time.

How long prefill can delay decode: behind a frame whose result will bring tokens to decode (a decode frame, or the last
chunk of a prompt) at most `n_batch` tokens of prefill are sent, one chunk's worth; so the decode frame that follows
that result finds at most so much before it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from coordinator.errors import OverloadedError
from coordinator.frames import Outcome, PlannedFrame, Request, SampledRow, Start
from coordinator.generation import FinishReason

_PREFILL_FRAMES_PER_STAGE = 2
"""One that the stage computes, one that it receives meanwhile."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the session was loaded for.

    Attributes:
        n_slots: Parallel sequences.
        n_batch: Tokens per frame.
        n_ctx: Tokens per sequence.
        n_stages: Stages of the line.
        n_waiting: Requests that may wait for a slot.
    """

    n_slots: int
    n_batch: int
    n_ctx: int
    n_stages: int
    n_waiting: int

    def __post_init__(self) -> None:
        if self.n_batch < self.n_slots:
            raise ValueError(f"a batch of {self.n_batch} cannot carry one token of each of {self.n_slots} sequences")
        if min(self.n_slots, self.n_ctx, self.n_stages) < 1 or self.n_waiting < 0:
            raise ValueError(f"limits must be positive: {self}")


class LineOrderError(Exception):
    """A result that does not answer the oldest frame in flight: the line cannot be trusted any more."""


class _Phase(Enum):
    WAITING = auto()
    PREFILL = auto()
    DECODE = auto()
    ENDED = auto()


class _Sequence:
    """A request on its way."""

    __slots__ = ("n_generated", "n_sent", "next_token", "phase", "request", "slot")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.phase = _Phase.WAITING
        self.slot = -1
        self.n_sent = 0  # tokens sent down the line: the next one's position
        self.n_generated = 0
        self.next_token = -1


@dataclass(slots=True)
class _InFlight:
    """A frame that was sent and not yet answered."""

    number: int
    rows: Sequence[_Sequence]
    n_prefill: int
    is_decode: bool


class Scheduler:
    """The requests of one session and the frames in its line.

    Args:
        end_of_generation: Tokens that end a request.
    """

    def __init__(self, limits: Limits, end_of_generation: Iterable[int]) -> None:
        self.limits = limits
        self._ends = frozenset(end_of_generation)
        self._sequences: dict[int, _Sequence] = {}
        self._waiting: deque[_Sequence] = deque()
        self._prefilling: deque[_Sequence] = deque()
        self._ready: list[_Sequence] = []
        # The lowest free slot first: llama.cpp batches sequences with consecutive ids in one ubatch.
        self._free_slots = list(range(limits.n_slots))
        self._removals: list[int] = []
        self._in_flight: deque[_InFlight] = deque()
        self._n_frames = 0
        self._decode_in_flight = False

    @property
    def n_running(self) -> int:
        """Requests that have a slot."""
        return self.limits.n_slots - len(self._free_slots)

    @property
    def n_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def n_in_flight(self) -> int:
        """Frames sent and not answered."""
        return len(self._in_flight)

    def submit(self, request: Request) -> None:
        """A new request; it waits if no slot is free.

        Raises:
            OverloadedError: The queue is full; nothing has changed.
            ValueError: A request that the session cannot hold, or an id that is in use.
        """
        n_prompt, n_ctx = len(request.prompt), self.limits.n_ctx
        if request.id in self._sequences or n_prompt < 1 or request.max_tokens < 1:
            raise ValueError(f"request {request.id} is empty or already there")
        if n_prompt + request.max_tokens > n_ctx:
            raise ValueError(f"{n_prompt} + {request.max_tokens} tokens do not go into a context of {n_ctx}")
        if not self._free_slots and len(self._waiting) >= self.limits.n_waiting:
            raise OverloadedError(len(self._waiting))
        sequence = _Sequence(request)
        self._sequences[request.id] = sequence
        self._waiting.append(sequence)
        self._admit()

    def end(self, request_id: int) -> bool:
        """Ends a request for reasons of the caller's (cancelled, a stop string); its slot is free at once.

        Returns:
            Whether it was still there.
        """
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return False
        self._release(sequence)
        return True

    def close(self) -> list[int]:
        """Ends everything. Gives the ids of the requests that were still there."""
        ids = list(self._sequences)
        for request_id in ids:
            self.end(request_id)
        return ids

    def result(self, number: int, rows: Sequence[SampledRow]) -> list[Outcome]:
        """The line's answer to the oldest frame in flight.

        Returns:
            One outcome for each row whose request still runs.

        Raises:
            LineOrderError: It answers another frame, or other rows than asked for.
        """
        if not self._in_flight or self._in_flight[0].number != number:
            expected = self._in_flight[0].number if self._in_flight else "none"
            raise LineOrderError(f"the line answered frame {number} where {expected} was due")
        frame = self._in_flight.popleft()
        if len(rows) != len(frame.rows):
            raise LineOrderError(f"the line answered {len(rows)} rows of frame {number}, asked {len(frame.rows)}")
        if frame.is_decode:
            self._decode_in_flight = False
        return [
            self._row(sequence, row)
            for sequence, row in zip(frame.rows, rows, strict=True)
            if sequence.phase is not _Phase.ENDED
        ]

    def next_frame(self) -> PlannedFrame | None:
        """The frame to send now; None if there is nothing to do before a result or an event comes."""
        if self._ready and not self._decode_in_flight:
            return self._decode_frame()
        if self._prefilling and self._may_prefill(self._prefilling[0]):
            return self._prefill_frame()
        if self._removals:
            return self._launch(self._new_frame(), rows=())
        return None

    # ---- rows and slots ----

    def _row(self, sequence: _Sequence, row: SampledRow) -> Outcome:
        request = sequence.request
        if row.token is None:
            self._release(sequence)
            return Outcome(request.id, row, failed=row.error or "the last stage sampled no token")
        if row.token in self._ends:
            self._release(sequence)
            return Outcome(request.id, row, finish=FinishReason.STOP, is_end=True)
        sequence.n_generated += 1
        if sequence.n_generated >= request.max_tokens:
            self._release(sequence)
            return Outcome(request.id, row, finish=FinishReason.LENGTH)
        sequence.phase = _Phase.DECODE
        sequence.next_token = row.token
        self._ready.append(sequence)
        return Outcome(request.id, row)

    def _admit(self) -> None:
        while self._waiting and self._free_slots:
            sequence = self._waiting.popleft()
            sequence.slot = heapq.heappop(self._free_slots)
            sequence.phase = _Phase.PREFILL
            self._prefilling.append(sequence)

    def _release(self, sequence: _Sequence) -> None:
        """Ends a sequence wherever it is. Frames of it that are in flight are answered for nobody; they are before the
        removal in the line, so the slot can be given away already."""
        del self._sequences[sequence.request.id]
        if sequence.phase is _Phase.WAITING:
            self._waiting.remove(sequence)
        else:
            if sequence in self._prefilling:
                self._prefilling.remove(sequence)
            if sequence in self._ready:
                self._ready.remove(sequence)
            if sequence.n_sent:
                self._removals.append(sequence.slot)
            heapq.heappush(self._free_slots, sequence.slot)
        sequence.phase = _Phase.ENDED
        self._admit()

    # ---- frames ----

    def _decode_frame(self) -> PlannedFrame:
        rows = self._ready
        self._ready = []
        if len(rows) > 1:
            rows.sort(key=lambda sequence: sequence.slot)
        frame = self._new_frame()
        for sequence in rows:
            frame.tokens.append(sequence.next_token)
            frame.positions.append(sequence.n_sent)
            frame.seq_ids.append(sequence.slot)
            sequence.n_sent += 1
        frame.outputs = list(range(len(rows)))
        self._decode_in_flight = True
        return self._launch(frame, rows=rows, is_decode=True)

    def _prefill_frame(self) -> PlannedFrame:
        sequence = self._prefilling.popleft()
        prompt = sequence.request.prompt
        start = sequence.n_sent
        chunk = prompt[start : start + self.limits.n_batch]
        end = start + len(chunk)
        frame = self._new_frame()
        if start == 0:
            frame.starts.append(Start(sequence.slot, sequence.request))
        frame.tokens = list(chunk)
        frame.positions = list(range(start, end))
        frame.seq_ids = [sequence.slot] * len(chunk)
        sequence.n_sent = end
        if end < len(prompt):
            # The next prompt's turn: a short one is not kept waiting by all of a long one.
            self._prefilling.append(sequence)
            return self._launch(frame, rows=(), n_prefill=len(chunk))
        frame.outputs = [len(chunk) - 1]
        return self._launch(frame, rows=(sequence,), n_prefill=len(chunk))

    def _may_prefill(self, sequence: _Sequence) -> bool:
        n_chunk = min(len(sequence.request.prompt) - sequence.n_sent, self.limits.n_batch)
        n_frames = n_behind = 0
        brings_tokens = False
        for frame in self._in_flight:
            if brings_tokens:
                n_behind += frame.n_prefill
            n_frames += 1 if frame.n_prefill else 0
            brings_tokens = brings_tokens or bool(frame.rows)
        if n_frames >= _PREFILL_FRAMES_PER_STAGE * self.limits.n_stages:
            return False
        return not brings_tokens or n_behind + n_chunk <= self.limits.n_batch

    def _new_frame(self) -> PlannedFrame:
        self._n_frames += 1
        frame = PlannedFrame(self._n_frames, removals=self._removals)
        self._removals = []
        return frame

    def _launch(
        self, frame: PlannedFrame, *, rows: Sequence[_Sequence], n_prefill: int = 0, is_decode: bool = False
    ) -> PlannedFrame:
        self._in_flight.append(_InFlight(frame.number, rows, n_prefill, is_decode))
        return frame
