# SPDX-License-Identifier: MIT
"""Where a frame's time went: its spans on one time axis, and what they add up to for a line over some seconds. Pure;
made of the session's frame log for `activity`.

How a frame is laid out. The workers' clocks cannot be compared, so a frame carries no time at which it reached a stage,
only how long it stayed there: it waited for its turn, was computed, and was held until it was sent on. When it was sent
and when its result came is known on the coordinator's clock. What is left of its trip are its hops, one more than
stages, and each is given the same part of that. So the length of a stay is as measured, and its place on the axis is
off by what the hops differ from each other: the stays of two neighbouring frames may seem to overlap by so much. Shares
of time are sums of lengths, and depend on places only at the two ends of the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from coordinator.frame_log import FrameRecord

WINDOW_S = 10.0
"""Seconds that figures are of: long enough to even out what one request does, short enough to be called now."""

LEAST_WINDOW_S = 0.1
"""A shorter one says nothing."""


class SpanKind(str, Enum):
    """What a frame did."""

    HOP = "hop"
    """On its way to a stage, or back to the coordinator."""
    WAITING = "waiting"
    """It had arrived, and the stage computed others."""
    COMPUTING = "computing"
    HELD = "held"
    """It was computed and not yet sent on."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a frame's trip, in seconds of the coordinator's clock.

    Attributes:
        stage: Which, from 0 on; of a hop the stage it leads to, and the number of stages for that to the coordinator.
    """

    kind: SpanKind
    stage: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class FrameMeans:
    """Frames of one kind (decode, or pieces of prompts) that came back in a window.

    Attributes:
        n_tokens: In all their batches.
        largest_batch: Tokens.
        trip_s: Mean seconds from sent to received.
        beside_s: Of these, those that they neither waited for a stage nor were computed: hops, and handing on.
        stage_s: Mean seconds that each stage computed one, in line order.
    """

    n_frames: int = 0
    n_tokens: int = 0
    largest_batch: int = 0
    trip_s: float = 0.0
    beside_s: float = 0.0
    stage_s: tuple[float, ...] = ()

    @property
    def mean_batch(self) -> float:
        """Tokens of a frame; 0 without frames."""
        return self.n_tokens / max(1, self.n_frames)

    @property
    def beside_share(self) -> float:
        """Of a trip, by hops and handing on; 0 without frames."""
        return self.beside_s / self.trip_s if self.trip_s else 0.0


@dataclass(frozen=True, slots=True)
class StageShares:
    """What a stage did with a window's time. The three shares add up to 1.

    Attributes:
        busy: It computed.
        waiting: It did not, while frames were elsewhere in the line.
        idle: Nothing was in the line.
        n_queued: Frames that had arrived and waited for it, on the average.
    """

    busy: float
    waiting: float
    idle: float
    n_queued: float


@dataclass(frozen=True, slots=True)
class LineFigures:
    """What a line did in a window.

    Attributes:
        window_s: Its length.
        n_generated: Tokens that frames brought to requests.
        mean_in_flight: Frames in the line, on the average of the time in which there was one.
        stages: In line order.
    """

    window_s: float
    n_generated: int
    mean_in_flight: float
    decode: FrameMeans
    prefill: FrameMeans
    stages: tuple[StageShares, ...]

    @property
    def active_share(self) -> float:
        """Of the time, while a frame was in the line."""
        return 1.0 - self.stages[0].idle

    @property
    def n_frames(self) -> int:
        """Of both kinds."""
        return self.decode.n_frames + self.prefill.n_frames

    @property
    def generated_per_s(self) -> float:
        """Tokens that requests got."""
        return self.n_generated / self.window_s

    @property
    def prompt_tokens_per_s(self) -> float:
        """Tokens of prompts that were computed."""
        return self.prefill.n_tokens / self.window_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens that every stage computed, of prompts and others."""
        return (self.decode.n_tokens + self.prefill.n_tokens) / self.window_s

    def busy_of_active(self, stage: int) -> float:
        """How much of the time a stage computed while there was something to compute."""
        return self.stages[stage].busy / self.active_share if self.active_share else 0.0


def spans_of(record: FrameRecord) -> tuple[Span, ...]:
    """A frame's trip, without gap or overlap, as the module says. Stays that are told to have been longer than the trip
    are shortened in proportion."""
    stays = [((stage.waited_s, stage.computed_s, stage.held_s)) for stage in record.stages]
    staying_s = sum(map(sum, stays))
    trip_s = max(0.0, record.received_s - record.sent_s)
    factor = min(1.0, trip_s / staying_s) if staying_s else 1.0
    hop_s = (trip_s - staying_s * factor) / (len(stays) + 1)
    spans: list[Span] = []
    now_s = record.sent_s
    for number, stay in enumerate(stays):
        parts = zip(_STAY, (hop_s, *(seconds * factor for seconds in stay)), strict=True)
        for kind, seconds in parts:
            if seconds > 0:
                spans.append(Span(kind, number, now_s, now_s + seconds))
                now_s += seconds
    spans.append(Span(SpanKind.HOP, len(stays), now_s, record.received_s))
    return tuple(spans)


_STAY = (SpanKind.HOP, SpanKind.WAITING, SpanKind.COMPUTING, SpanKind.HELD)


def figures_of(records: Sequence[FrameRecord], start_s: float, end_s: float, n_stages: int) -> LineFigures:
    """What a line did from `start_s` to `end_s`.

    Args:
        records: In the order of their results; at least all frames that were in the line then, so that `end_s` is no
            later than when the oldest frame was sent whose result has not come.
    """
    within = [record for record in records if record.received_s > start_s and record.sent_s < end_s]
    busy_s, queued_s = [0.0] * n_stages, [0.0] * n_stages
    for record in within:
        _add_stays(record, start_s, end_s, busy_s, queued_s)
    active_s, trips_s = _covered(within, start_s, end_s)
    window_s = end_s - start_s
    came = [record for record in within if record.received_s <= end_s]
    return LineFigures(
        window_s=window_s,
        n_generated=sum(record.n_generated for record in came),
        mean_in_flight=trips_s / active_s if active_s else 0.0,
        decode=_means([record for record in came if record.is_decode], n_stages),
        prefill=_means([record for record in came if record.n_tokens and not record.is_decode], n_stages),
        stages=tuple(_shares(busy, queued, active_s, window_s) for busy, queued in zip(busy_s, queued_s, strict=True)),
    )


def _add_stays(record: FrameRecord, start_s: float, end_s: float, busy_s: list[float], queued_s: list[float]) -> None:
    """Adds what each stage computed of a frame within the window, and how long that waited there."""
    if record.sent_s >= start_s and record.received_s <= end_s:
        for number, stage in enumerate(record.stages):
            busy_s[number] += stage.computed_s
            queued_s[number] += stage.waited_s
        return
    for span in spans_of(record):
        seconds = max(0.0, min(span.end_s, end_s) - max(span.start_s, start_s))
        if span.kind is SpanKind.COMPUTING:
            busy_s[span.stage] += seconds
        elif span.kind is SpanKind.WAITING:
            queued_s[span.stage] += seconds


def _covered(records: Sequence[FrameRecord], start_s: float, end_s: float) -> tuple[float, float]:
    """Seconds of the window in which a frame was in the line, and the sum of those of each frame."""
    active_s = trips_s = 0.0
    until_s = start_s
    for record in records:
        first_s, last_s = max(record.sent_s, start_s), min(record.received_s, end_s)
        trips_s += max(0.0, last_s - first_s)
        active_s += max(0.0, last_s - max(first_s, until_s))
        until_s = max(until_s, last_s)
    return active_s, trips_s


def _shares(busy_s: float, queued_s: float, active_s: float, window_s: float) -> StageShares:
    busy_s = min(busy_s, active_s)
    return StageShares(busy_s / window_s, (active_s - busy_s) / window_s, 1 - active_s / window_s, queued_s / window_s)


def _means(records: Sequence[FrameRecord], n_stages: int) -> FrameMeans:
    n_frames = len(records)
    if not n_frames:
        return FrameMeans(stage_s=(0.0,) * n_stages)
    sizes = [record.n_tokens for record in records]
    return FrameMeans(
        n_frames=n_frames,
        n_tokens=sum(sizes),
        largest_batch=max(sizes),
        trip_s=sum(record.received_s - record.sent_s for record in records) / n_frames,
        beside_s=sum(record.beside_s for record in records) / n_frames,
        stage_s=tuple(
            sum(record.stages[number].computed_s for record in records) / n_frames for number in range(n_stages)
        ),
    )
