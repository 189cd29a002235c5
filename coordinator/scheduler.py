# SPDX-License-Identifier: MIT
"""What goes into the next frame: continuous batching as a state machine. Pure: events in (submit, end, result),
frames and outcomes out; no clock, no I/O. The session calls it on its event loop.

Each running request has a slot (`slots`), which is its sequence id in every stage's KV cache. A request's prompt goes
in chunks, one request per frame, that follow each other down the line without waiting: all stages work on it at once.
`pace` says how large they are best; up to twice the smallest size, and wherever there is one stage, a prompt is cut
only as llama.cpp itself would cut it, so that a request alone computes exactly what it would compute on one machine.

Sequences that have a token to decode go in lanes: so many decode frames in the line at a time as `pace` finds best,
each with the sequences of neighbouring slots, which llama.cpp computes together. A lane's next frame goes as soon as
its last one came back; no lane waits for another. Lanes are cut anew for every frame, by who runs then: they split,
merge and even out as requests come and go.

How long prefill can delay decode: while sequences decode, a chunk goes only after a decode frame, and is no larger than
takes a stage about as long as such frames do (or the smallest size that is worth its while).
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from coordinator.frames import CacheOperation, Outcome, PlannedFrame, Request, SampledRow, Start
from coordinator.generation import FinishReason
from coordinator.pace import Pace
from coordinator.slots import Slots
from coordinator.waiting import Clients, WaitingRoom

_PREFILL_FRAMES_PER_STAGE = 2
"""One that the stage computes, one that it receives meanwhile."""

_BUSY_CHUNK = 32
"""Tokens of the smallest chunk that goes between decode frames: a CPU computes it nearly as fast by the token as a
larger one, a GPU about as fast as a single token."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the session was loaded for.

    Attributes:
        n_slots: Parallel sequences.
        n_batch: Tokens per frame.
        n_ctx: Tokens per sequence.
        n_stages: Stages of the line.
        n_waiting: Requests that may wait for a slot.
        n_ubatch: Tokens that llama.cpp computes at once; None: a whole frame.
        can_forget_part: Whether the model's memory can forget the end of a sequence.
    """

    n_slots: int
    n_batch: int
    n_ctx: int
    n_stages: int
    n_waiting: int
    n_ubatch: int | None = None
    can_forget_part: bool = True

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

    __slots__ = (
        "cached",
        "is_paused",
        "is_ready",
        "n_chunk",
        "n_generated",
        "n_reused",
        "next_token",
        "phase",
        "request",
        "slot",
    )

    def __init__(self, request: Request) -> None:
        self.request = request
        self.phase = _Phase.WAITING
        self.slot = -1
        # What the slot holds, and was sent down the line; the number of tokens is the next one's position.
        self.cached: list[int] = []
        self.n_reused = 0
        self.n_chunk = 0
        self.n_generated = 0
        self.next_token = -1
        self.is_ready = False  # has a token to decode that is not in the line
        self.is_paused = False


@dataclass(slots=True)
class _InFlight:
    """A frame that was sent and not yet answered; `lane` is that of a decode frame, -1 of others."""

    number: int
    rows: Sequence[_Sequence]
    lane: int


class Scheduler:
    """The requests of one session and the frames in its line.

    Args:
        end_of_generation: Tokens that end a request.
        pace: Of the line; the session tells it what frames took.
        clients: Of all lines of the mesh.
    """

    def __init__(
        self,
        limits: Limits,
        end_of_generation: Iterable[int],
        pace: Pace | None = None,
        clients: Clients | None = None,
    ) -> None:
        self.limits = limits
        self.pace = pace or Pace(limits.n_stages)
        self._ends = frozenset(end_of_generation)
        self._sequences: dict[int, _Sequence] = {}
        self._waiting = WaitingRoom(limits.n_waiting, Clients() if clients is None else clients)
        self._prefilling: deque[_Sequence] = deque()
        self._decoding: list[_Sequence] = []  # by slot; without those that are paused
        self._slots = Slots(limits.n_slots, can_forget_part=limits.can_forget_part)
        self._operations: list[CacheOperation] = []
        self._ended_slots: list[int] = []
        self._in_flight: deque[_InFlight] = deque()
        self._n_frames = 0
        self._n_chunks_in_flight = 0
        self._lanes_in_flight: set[int] = set()
        self._last_lane = 0
        self._may_interleave = False
        self.n_prompt_tokens = 0
        self.n_reused_tokens = 0

    @property
    def n_running(self) -> int:
        """Requests that have a slot."""
        return self.limits.n_slots - self._slots.n_free

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
            ClientLimitError: Its client has as many requests as it may; nothing has changed.
            ValueError: A request that the session cannot hold, or an id that is in use.
        """
        n_prompt, n_ctx = len(request.prompt), self.limits.n_ctx
        if request.id in self._sequences or n_prompt < 1 or request.max_tokens < 1:
            raise ValueError(f"request {request.id} is empty or already there")
        if n_prompt + request.max_tokens > n_ctx:
            raise ValueError(f"{n_prompt} + {request.max_tokens} tokens do not go into a context of {n_ctx}")
        self._waiting.enter(request, is_slot_free=self._slots.n_free > 0)
        self._sequences[request.id] = _Sequence(request)
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

    def pause(self, request_id: int) -> None:
        """Decodes no further tokens of a request, which keeps its slot; what is in the line still comes. Nothing
        happens if it has ended."""
        sequence = self._sequences.get(request_id)
        if sequence is not None and not sequence.is_paused:
            sequence.is_paused = True
            if sequence.phase is _Phase.DECODE:
                self._decoding.remove(sequence)

    def resume(self, request_id: int) -> None:
        """Goes on with a paused request, from the token where it was. Nothing happens if it has ended."""
        sequence = self._sequences.get(request_id)
        if sequence is not None and sequence.is_paused:
            sequence.is_paused = False
            if sequence.phase is _Phase.DECODE:
                bisect.insort(self._decoding, sequence, key=_slot_of)

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
        if frame.lane < 0:
            self._n_chunks_in_flight -= 1
        else:
            self._lanes_in_flight.discard(frame.lane)
        return [
            self._row(sequence, row)
            for sequence, row in zip(frame.rows, rows, strict=True)
            if sequence.phase is not _Phase.ENDED
        ]

    def next_frame(self) -> PlannedFrame | None:
        """The frame to send now; None if there is nothing to do before a result or an event comes."""
        if self._decoding and (frame := self._decode_frame()) is not None:
            return frame
        if self._prefilling and self._may_prefill():
            return self._prefill_frame()
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
        if sequence.phase is _Phase.PREFILL:
            sequence.phase = _Phase.DECODE
            if not sequence.is_paused:
                bisect.insort(self._decoding, sequence, key=_slot_of)
        sequence.next_token = row.token
        sequence.is_ready = True
        return Outcome(request.id, row)

    def _admit(self) -> None:
        while self._waiting and self._slots.n_free:
            sequence = self._sequences[self._waiting.take().id]
            prompt = sequence.request.prompt
            place = self._slots.take(prompt, reuse=sequence.request.reuse)
            # With the next frame, whichever that is: slots are said to hold what the frames sent so far make of them.
            self._operations += place.operations
            sequence.slot, sequence.n_reused = place.slot, place.n_reused
            sequence.cached = self._slots.tokens(place.slot)
            sequence.phase = _Phase.PREFILL
            self._prefilling.append(sequence)

    def _release(self, sequence: _Sequence) -> None:
        """Ends a sequence wherever it is. Frames of it that are in flight are answered for nobody; they come before
        whatever its slot is used for next, so the slot can be given away already."""
        del self._sequences[sequence.request.id]
        self._waiting.leave(sequence.request)
        if sequence.phase is not _Phase.WAITING:
            if sequence.phase is _Phase.DECODE:
                if not sequence.is_paused:
                    self._decoding.remove(sequence)
            elif sequence in self._prefilling:
                self._prefilling.remove(sequence)
            if sequence.n_chunk:
                self._ended_slots.append(sequence.slot)
            self._slots.give_back(sequence.slot, len(sequence.cached))
        sequence.phase = _Phase.ENDED
        self._admit()

    # ---- decode ----

    def _decode_frame(self) -> PlannedFrame | None:
        """The next frame of a lane that has none in the line, if one of its sequences has a token."""
        n_decoding = len(self._decoding)
        n_lanes = self.pace.n_lanes(n_decoding)
        for offset in range(1, n_lanes + 1):
            lane = (self._last_lane + offset) % n_lanes
            if lane in self._lanes_in_flight:
                continue
            members = self._decoding[lane * n_decoding // n_lanes : (lane + 1) * n_decoding // n_lanes]
            rows = [sequence for sequence in members if sequence.is_ready]
            if rows:
                return self._frame_of_lane(lane, rows)
        return None

    def _frame_of_lane(self, lane: int, rows: Sequence[_Sequence]) -> PlannedFrame:
        frame = self._new_frame()
        for sequence in rows:
            frame.tokens.append(sequence.next_token)
            frame.positions.append(len(sequence.cached))
            frame.seq_ids.append(sequence.slot)
            sequence.cached.append(sequence.next_token)
            sequence.is_ready = False
        frame.outputs = list(range(len(rows)))
        frame.is_decode = True
        self._lanes_in_flight.add(lane)
        self._last_lane = lane
        self._may_interleave = True
        self._in_flight.append(_InFlight(frame.number, rows, lane))
        return frame

    # ---- prefill ----

    def _may_prefill(self) -> bool:
        if self._decoding and not self._may_interleave:
            return False
        return self._n_chunks_in_flight < _PREFILL_FRAMES_PER_STAGE * self.limits.n_stages

    def _prefill_frame(self) -> PlannedFrame:
        sequence = self._prefilling.popleft()
        prompt, cached = sequence.request.prompt, sequence.cached
        start = len(cached)
        frame = self._new_frame()
        if not sequence.n_chunk:
            sequence.n_chunk = self.pace.n_chunk(len(prompt) - start, self._n_largest_chunk)
            frame.starts.append(Start(sequence.slot, sequence.request, sequence.n_reused))
            self.n_prompt_tokens += len(prompt)
            self.n_reused_tokens += sequence.n_reused
        chunk = prompt[start : start + self._n_chunk_now(sequence)]
        end = start + len(chunk)
        frame.tokens = list(chunk)
        frame.positions = list(range(start, end))
        frame.seq_ids = [sequence.slot] * len(chunk)
        cached += chunk
        self._may_interleave = False
        self._n_chunks_in_flight += 1
        rows: Sequence[_Sequence] = ()
        if end < len(prompt):
            # The next prompt's turn: a short one is not kept waiting by all of a long one.
            self._prefilling.append(sequence)
        else:
            frame.outputs = [len(chunk) - 1]
            rows = (sequence,)
        self._in_flight.append(_InFlight(frame.number, rows, -1))
        return frame

    @property
    def _n_largest_chunk(self) -> int:
        """A line of one stage gains nothing from smaller ones."""
        limits = self.limits
        return limits.n_batch if limits.n_stages == 1 else min(limits.n_batch, limits.n_ubatch or limits.n_batch)

    def _n_chunk_now(self, sequence: _Sequence) -> int:
        """Tokens of its next chunk: fewer while others decode."""
        n_decoding = len(self._decoding)
        if not n_decoding:
            return sequence.n_chunk
        decode_s = max(self.pace.stage_s(-(-n_decoding // self.pace.n_lanes(n_decoding))))
        return self.pace.n_tokens_within(decode_s, sequence.n_chunk, _BUSY_CHUNK)

    def _new_frame(self) -> PlannedFrame:
        self._n_frames += 1
        frame = PlannedFrame(self._n_frames, operations=self._operations, ends=self._ended_slots)
        self._operations, self._ended_slots = [], []
        return frame


def _slot_of(sequence: _Sequence) -> int:
    return sequence.slot
