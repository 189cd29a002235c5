# SPDX-License-Identifier: MIT
"""The frames of one line, in the order in which they go and are answered: each takes along what is to be done to the
caches and samplers before it, and is in flight until its answer comes. The scheduler's; pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from coordinator.frames import CacheOperation, PlannedFrame
from coordinator.sequence import RunningSequence


class LineOrderError(Exception):
    """A result that does not answer the oldest frame in flight: the line cannot be trusted any more."""


class FrameKind(Enum):
    """What a frame's tokens are: a piece of a prompt, the next ones of a lane, or guesses ahead of what is known."""

    PREFILL = auto()
    DECODE = auto()
    AHEAD = auto()


@dataclass(slots=True)
class FrameInFlight:
    """A frame that was sent and not yet answered.

    Attributes:
        rows: Sequences whose tokens it samples, with the number of rows of each and its `n_wrong` when it was sent.
        lane: Of a decode frame.
    """

    number: int
    kind: FrameKind
    rows: Sequence[tuple[RunningSequence, int, int]]
    lane: int = -1


class FrameOrder:
    """None was sent at first.

    Attributes:
        operations: Go with the next frame, whichever that is.
        ended_slots: Their samplers are dropped with it.
        n_chunks: In flight.
        lanes: Those with a frame in flight.
    """

    def __init__(self) -> None:
        self.operations: list[CacheOperation] = []
        self.ended_slots: list[int] = []
        self.n_chunks = 0
        self.lanes: set[int] = set()
        self._n_frames = 0
        self._in_flight: deque[FrameInFlight] = deque()

    def __len__(self) -> int:
        """Frames sent and not answered."""
        return len(self._in_flight)

    @property
    def request_ids(self) -> set[int]:
        """Of the requests that tokens in flight are sampled for."""
        return {sequence.request.id for frame in self._in_flight for sequence, _, _ in frame.rows}

    def new(self) -> PlannedFrame:
        """The next one to send, without tokens so far; `sent` follows before another one."""
        self._n_frames += 1
        frame = PlannedFrame(self._n_frames, operations=self.operations, ends=self.ended_slots)
        self.operations, self.ended_slots = [], []
        return frame

    def sent(
        self, frame: PlannedFrame, kind: FrameKind, rows: Sequence[tuple[RunningSequence, int, int]], lane: int = -1
    ) -> None:
        """It goes down the line; the arguments are those of a FrameInFlight."""
        self._in_flight.append(FrameInFlight(frame.number, kind, rows, lane))
        if kind is FrameKind.PREFILL:
            self.n_chunks += 1
        elif kind is FrameKind.DECODE:
            self.lanes.add(lane)

    def answered(self, number: int, n_rows: int) -> FrameInFlight:
        """The oldest frame in flight, which a result with so many rows says it answers.

        Raises:
            LineOrderError: It answers another frame, or other rows than asked for.
        """
        if not self._in_flight or self._in_flight[0].number != number:
            expected = self._in_flight[0].number if self._in_flight else "none"
            raise LineOrderError(f"the line answered frame {number} where {expected} was due")
        frame = self._in_flight.popleft()
        if n_rows != sum(n_of_sequence for _, n_of_sequence, _ in frame.rows):
            raise LineOrderError(f"the line answered {n_rows} rows of frame {number}, not those it was asked for")
        if frame.kind is FrameKind.PREFILL:
            self.n_chunks -= 1
        elif frame.kind is FrameKind.DECODE:
            self.lanes.discard(frame.lane)
        return frame
