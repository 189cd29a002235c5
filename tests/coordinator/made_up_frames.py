# SPDX-License-Identifier: MIT
"""Frames of lines that are not there: what their records would say, by sums that can be done by hand."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.frame_log import FrameRecord
from coordinator.frames import StageTime


def record(
    sent_s: float, received_s: float, *stays: tuple[float, float, float], is_decode: bool = True, n_tokens: int = 1
) -> FrameRecord:
    """A frame; of each stage the seconds that it waited, was computed and was held."""
    stages = tuple(StageTime(*stay) for stay in stays)
    return FrameRecord(1, is_decode, n_tokens, 1, sent_s, received_s, stages, 1 if is_decode else 0)


def run(
    stage_s: Sequence[float],
    hop_s: float,
    *,
    n_in_flight: int,
    until_s: float = 10.0,
    is_decode: bool = True,
    n_tokens: int = 1,
) -> list[FrameRecord]:
    """A line from second 0 on: so many frames at a time, each followed by another when it is back, through stages that
    compute one after the other."""
    free_s = [0.0] * len(stage_s)
    ready_s = [0.0] * n_in_flight
    records: list[FrameRecord] = []
    while True:
        sent_s = now_s = ready_s.pop(0)
        stays = []
        for number, seconds in enumerate(stage_s):
            arrived_s = now_s + hop_s
            started_s = max(arrived_s, free_s[number])
            now_s = free_s[number] = started_s + seconds
            stays.append((started_s - arrived_s, seconds, 0.0))
        received_s = now_s + hop_s
        if sent_s >= until_s:
            return records
        records.append(record(sent_s, received_s, *stays, is_decode=is_decode, n_tokens=n_tokens))
        ready_s.append(received_s)
