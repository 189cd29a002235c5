# SPDX-License-Identifier: MIT
"""What became of the frames of the last minutes: when each was sent, what every stage did with it, when its result
came. The session writes it; the pace of the line, its waterfall and what is said about its speed come from it.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.frames import PlannedFrame, StageTime

KEPT_S = 180.0
"""Seconds that a frame is remembered."""

_MOST = 100_000
"""Frames remembered at most."""


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """A frame that came back.

    Attributes:
        is_decode: It brought sampled tokens; else a piece of a prompt, or operations alone: then it has no tokens.
        n_tokens: In its batch.
        n_rows: Tokens that were to be sampled.
        sent_s: When it was sent, on the coordinator's monotonic clock; of one that follows another, when that one's
            result came: about then its token is at the first stage.
        received_s: When its result came, there too.
        stages: In line order.
        n_generated: Tokens that it brought to requests which still ran.
        n_guesses: Among its tokens.
        chunk_at: The position of its tokens on average, if it is a piece of a prompt.
        is_following: Its token went straight from the last stage to the first.
        is_embedding: Its tokens were inputs to be embedded, which takes longer than a prompt.
    """

    number: int
    is_decode: bool
    n_tokens: int
    n_rows: int
    sent_s: float
    received_s: float
    stages: tuple[StageTime, ...]
    n_generated: int = 0
    n_guesses: int = 0
    chunk_at: float | None = None
    is_following: bool = False
    is_embedding: bool = False

    @property
    def computed_s(self) -> tuple[float, ...]:
        """Seconds that each stage computed it."""
        return tuple(stage.computed_s for stage in self.stages)

    @property
    def beside_s(self) -> float:
        """Seconds of its trip that it neither waited for a stage nor was computed: hops, and handing on."""
        at_stages_s = sum(stage.waited_s + stage.computed_s for stage in self.stages)
        return max(0.0, self.received_s - self.sent_s - at_stages_s)


class FrameLog:
    """The frames of the last minutes of a line of so many stages, in the order they were sent in, which is that their
    results came in. What workers say of their time is taken for what it is worth: where it leaves stages out, a frame
    is not remembered."""

    def __init__(self, n_stages: int) -> None:
        self.n_stages = n_stages
        self._in_flight: deque[tuple[PlannedFrame, float]] = deque()
        self._records: deque[FrameRecord] = deque(maxlen=_MOST)

    @property
    def records(self) -> Sequence[FrameRecord]:
        """Oldest first."""
        return self._records

    @property
    def in_flight_since(self) -> list[float]:
        """When each of the frames was sent whose result has not come, oldest first. From any thread."""
        return [sent_s for _, sent_s in list(self._in_flight)]

    def since(self, start_s: float) -> list[FrameRecord]:
        """Those that came back at that time or later, oldest first. From any thread: the copy is one step of the
        interpreter's."""
        records = list(self._records)
        return records[bisect.bisect_left(records, start_s, key=_received_s) :]

    def sent(self, frame: PlannedFrame, now_s: float) -> None:
        """A frame goes into the line."""
        self._in_flight.append((frame, now_s))

    def forget_in_flight(self) -> None:
        """No more results come."""
        self._in_flight.clear()

    def received(
        self, number: int, stages: tuple[StageTime, ...], now_s: float, n_generated: int = 0, *, has_rows: bool = True
    ) -> FrameRecord | None:
        """The result of the oldest frame in flight came; None if it is not that one's, or tells of other stages.

        Args:
            has_rows: Without those that it asked for it was void, and is remembered as one of operations alone.
        """
        if not self._in_flight or self._in_flight[0][0].number != number:
            return None
        frame, sent_s = self._in_flight.popleft()
        if frame.returns:
            self._begin_trip_after(number, now_s)
        if len(stages) != self.n_stages:
            return None
        if frame.outputs and not has_rows:
            frame = PlannedFrame(number, operations=frame.operations)
        counts = len(frame.tokens), len(frame.outputs)
        positions = frame.positions
        chunk_at = (positions[0] + positions[-1]) / 2 if positions and not frame.is_decode else None
        n_guesses = 0 if frame.follows else len(frame.drafts)
        record = FrameRecord(
            number,
            frame.is_decode,
            *counts,
            sent_s,
            now_s,
            stages,
            n_generated,
            n_guesses,
            chunk_at,
            is_following=frame.follows > 0,
            is_embedding=frame.is_embedding,
        )
        records = self._records
        records.append(record)
        while records[0].received_s < now_s - KEPT_S:
            records.popleft()
        return record

    def _begin_trip_after(self, number: int, now_s: float) -> None:
        """Whatever follows that frame begins its trip now."""
        for place, (frame, _) in enumerate(self._in_flight):
            if frame.follows == number:
                self._in_flight[place] = (frame, now_s)


def _received_s(record: FrameRecord) -> float:
    return record.received_s
