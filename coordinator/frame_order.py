# SPDX-License-Identifier: MIT
"""The frames of one line, in the order in which they go and are answered: each takes along what is to be done to the
caches and samplers before it, and is in flight until its answer comes. The scheduler's; pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from coordinator.frames import CacheOperation, Copy, PlannedFrame, Prefilled
from coordinator.sequence import RunningSequence

if TYPE_CHECKING:
    from coordinator.embedding import RunningEmbedding


class LineOrderError(Exception):
    """A result that does not answer the oldest frame in flight: the line cannot be trusted any more."""


class FrameKind(Enum):
    """What a frame's tokens are: a piece of a prompt, the next ones of a lane, guesses ahead of what is known, or what
    is to be embedded."""

    PREFILL = auto()
    DECODE = auto()
    AHEAD = auto()
    EMBEDDING = auto()


_CHUNKS = (FrameKind.PREFILL, FrameKind.EMBEDDING)


@dataclass(frozen=True, slots=True)
class EmbeddedRows:
    """What a frame has of one input: rows that it brings vectors for, and whether the input ends there."""

    request: RunningEmbedding
    index: int
    n_rows: int
    is_end: bool


@dataclass(slots=True)
class FrameInFlight:
    """A frame that was sent and not yet answered.

    Attributes:
        rows: Sequences whose tokens it samples, with the number of rows of each and its `n_wrong` when it was sent.
        operations: Carried out before its tokens are computed.
        start: Position of the first of its tokens.
        lane: Of a decode frame.
        inputs: Of one that embeds, in the order of its rows.
        prefilled: Of a chunk, what is in the cache when it is answered; None: nobody wants to know.
        is_void: Stages were told that they need not compute it.
    """

    number: int
    kind: FrameKind
    rows: Sequence[tuple[RunningSequence, int, int]]
    operations: Sequence[CacheOperation]
    start: int
    lane: int = -1
    is_void: bool = False
    inputs: Sequence[EmbeddedRows] = ()
    prefilled: Prefilled | None = None

    @property
    def n_rows(self) -> int:
        """Rows that it asks for."""
        return sum(n_rows for _, n_rows, _ in self.rows) + sum(each.n_rows for each in self.inputs)


class FrameOrder:
    """None was sent at first.

    Attributes:
        operations: Go with the next frame, whichever that is.
        ended_slots: Their samplers are dropped with it.
        voids: Numbers of frames in flight that stages are to be told are void.
        n_chunks: Of prompts, and of what is to be embedded, in flight.
        n_void: In flight.
        n_dropped: Void frames that came back without having been computed by all stages.
        lanes: Those with a frame in flight.
    """

    def __init__(self) -> None:
        self.operations: list[CacheOperation] = []
        self.ended_slots: list[int] = []
        self.voids: list[int] = []
        self.n_chunks = 0
        self.n_void = 0
        self.n_dropped = 0
        self.lanes: set[int] = set()
        self._n_frames = 0
        self._in_flight: deque[FrameInFlight] = deque()

    def __len__(self) -> int:
        """Frames sent and not answered."""
        return len(self._in_flight)

    @property
    def request_ids(self) -> set[int]:
        """Of the requests that tokens in flight are sampled for, or that are embedded."""
        sampled = {sequence.request.id for frame in self._in_flight for sequence, _, _ in frame.rows}
        return sampled | {each.request.request.id for frame in self._in_flight for each in frame.inputs}

    def new(self) -> PlannedFrame:
        """The next one to send, without tokens so far; `sent` follows before another one."""
        self._n_frames += 1
        frame = PlannedFrame(self._n_frames, operations=self.operations, ends=self.ended_slots)
        self.operations, self.ended_slots = [], []
        return frame

    def sent(
        self,
        frame: PlannedFrame,
        kind: FrameKind,
        rows: Sequence[tuple[RunningSequence, int, int]] = (),
        lane: int = -1,
        inputs: Sequence[EmbeddedRows] = (),
        prefilled: Prefilled | None = None,
    ) -> None:
        """It goes down the line; the arguments are those of a FrameInFlight."""
        in_flight = FrameInFlight(frame.number, kind, rows, frame.operations, frame.positions[0], lane)
        in_flight.inputs, in_flight.prefilled = inputs, prefilled
        self._in_flight.append(in_flight)
        if kind in _CHUNKS:
            self.n_chunks += 1
        elif kind is FrameKind.DECODE:
            self.lanes.add(lane)

    def void(self, sequence: RunningSequence, position: int) -> None:
        """Guesses of a sequence from that position on are of no use, nor are frames of them. Its cells from there on
        are forgotten before the next frame that has any: some stages may have computed what others leave out."""
        if _is_copied(sequence.slot, self.operations):
            return
        for frame in reversed(self._in_flight):
            is_ahead = frame.kind is FrameKind.AHEAD and frame.rows[0][0] is sequence
            if is_ahead and frame.start >= position and not frame.is_void:
                frame.is_void = True
                self.n_void += 1
                self.voids.append(frame.number)
            if _is_copied(sequence.slot, frame.operations):
                return  # with what was sent before

    def answered(self, number: int, n_rows: int) -> FrameInFlight:
        """The oldest frame in flight, which a result with so many rows says it answers.

        Raises:
            LineOrderError: It answers another frame, or other rows than asked for.
        """
        if not self._in_flight or self._in_flight[0].number != number:
            expected = self._in_flight[0].number if self._in_flight else "none"
            raise LineOrderError(f"the line answered frame {number} where {expected} was due")
        frame = self._in_flight.popleft()
        if frame.is_void:
            self.n_void -= 1
            self.n_dropped += not n_rows
        if n_rows != frame.n_rows and not (frame.is_void and not n_rows):
            raise LineOrderError(f"the line answered {n_rows} rows of frame {number}, not those it was asked for")
        if frame.kind in _CHUNKS:
            self.n_chunks -= 1
        elif frame.kind is FrameKind.DECODE:
            self.lanes.discard(frame.lane)
        return frame


def _is_copied(slot: int, operations: Sequence[CacheOperation]) -> bool:
    return any(isinstance(operation, Copy) and operation.source == slot for operation in operations)
