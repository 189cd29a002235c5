# SPDX-License-Identifier: MIT
"""Frames on one time axis, and the shares of a window that they add up to."""

import pytest

from coordinator.frame_log import FrameLog
from coordinator.frames import PlannedFrame, StageTime
from coordinator.waterfall import SpanKind, figures_of, spans_of
from tests.coordinator.made_up_frames import record, run


def test_the_hops_share_what_the_stages_leave_of_a_trip() -> None:
    spans = spans_of(record(100.0, 100.1, (0.01, 0.02, 0.005), (0.0, 0.035, 0.0)))
    laid = [(span.kind.value, span.stage, round(span.start_s - 100, 6), round(span.end_s - 100, 6)) for span in spans]
    assert laid == [
        ("hop", 0, 0.0, 0.01),
        ("waiting", 0, 0.01, 0.02),
        ("computing", 0, 0.02, 0.04),
        ("held", 0, 0.04, 0.045),
        ("hop", 1, 0.045, 0.055),
        ("computing", 1, 0.055, 0.09),
        ("hop", 2, 0.09, 0.1),
    ]


def test_stays_longer_than_the_trip_are_shortened_to_it() -> None:
    spans = spans_of(record(5.0, 6.0, (0.0, 3.0, 0.0), (0.0, 1.0, 0.0)))
    computed = [span.end_s - span.start_s for span in spans if span.kind is SpanKind.COMPUTING]
    assert computed == pytest.approx([0.75, 0.25])
    assert all(span.start_s <= span.end_s for span in spans)
    assert (spans[0].start_s, spans[-1].end_s) == (5.0, 6.0)


def test_one_frame_at_a_time_leaves_each_stage_waiting_for_the_others() -> None:
    figures = figures_of(run((0.02, 0.05), 0.01, n_in_flight=1), 1.0, 9.0, 2)
    assert [stage.busy for stage in figures.stages] == pytest.approx([0.2, 0.5], abs=0.01)
    assert [stage.waiting for stage in figures.stages] == pytest.approx([0.8, 0.5], abs=0.01)
    assert [stage.n_queued for stage in figures.stages] == pytest.approx([0, 0])
    assert figures.mean_in_flight == pytest.approx(1)
    assert figures.decode.beside_share == pytest.approx(0.3)
    assert figures.generated_per_s == pytest.approx(10, rel=0.02)


def test_the_slowest_stage_of_a_full_line_is_always_busy_and_frames_queue_there() -> None:
    figures = figures_of(run((0.02, 0.05), 0.01, n_in_flight=4), 1.0, 9.0, 2)
    assert [stage.busy for stage in figures.stages] == pytest.approx([0.4, 1.0], abs=0.01)
    assert figures.mean_in_flight == pytest.approx(4, rel=0.02)
    # Of the four, one is computed there, 0.4 at the first, 0.6 are on three hops: the others wait.
    assert figures.stages[1].n_queued == pytest.approx(2.0, abs=0.1)
    for stage in figures.stages:
        assert stage.busy + stage.waiting + stage.idle == pytest.approx(1)


def test_what_lies_outside_the_window_does_not_count() -> None:
    # Of a trip from second 1 to 3 the window has a half: of each stage's 0.8 s too, since hops take none.
    figures = figures_of([record(1.0, 3.0, (0.0, 1.0, 0.0), (0.0, 1.0, 0.0))], 1.5, 2.5, 2)
    assert [stage.busy for stage in figures.stages] == pytest.approx([0.5, 0.5])
    assert [stage.waiting for stage in figures.stages] == pytest.approx([0.5, 0.5])
    assert figures.n_frames == 0
    figures = figures_of([record(1.0, 3.0, (0.0, 1.0, 0.0))], 3.0, 13.0, 1)
    assert (figures.stages[0].idle, figures.active_share, figures.n_frames) == (1.0, 0.0, 0)


def test_idle_is_when_nothing_is_in_the_line() -> None:
    figures = figures_of([record(1.0, 3.0, (0.0, 1.0, 0.0)), record(7.0, 8.0, (0.0, 0.5, 0.0))], 0.0, 10.0, 1)
    assert figures.stages[0].idle == pytest.approx(0.7)
    assert figures.stages[0].busy == pytest.approx(0.15)
    assert figures.busy_of_active(0) == pytest.approx(0.5)


def test_prompts_and_decode_are_told_apart() -> None:
    frames = [
        record(0.0, 1.0, (0.0, 0.8, 0.0), is_decode=False, n_tokens=64),
        record(0.5, 1.5, (0.3, 0.4, 0.0), n_tokens=4),
        record(1.5, 2.0, (0.0, 0.2, 0.0), n_tokens=2),
        record(2.0, 2.1, (0.0, 0.0, 0.0), is_decode=False, n_tokens=0),
    ]
    figures = figures_of(frames, 0.0, 4.0, 1)
    assert (figures.prefill.n_frames, figures.prefill.n_tokens, figures.prefill.largest_batch) == (1, 64, 64)
    assert figures.prompt_tokens_per_s == 16
    assert (figures.decode.n_frames, figures.decode.mean_batch, figures.decode.largest_batch) == (2, 3, 4)
    assert figures.decode.trip_s == pytest.approx(0.75)
    assert figures.decode.beside_s == pytest.approx((0.3 + 0.3) / 2)
    assert figures.decode.stage_s == pytest.approx((0.3,))


def test_the_log_tells_what_came_back_since_and_what_is_in_the_line() -> None:
    log = FrameLog(n_stages=1)
    for number in range(1, 6):
        log.sent(PlannedFrame(number, tokens=[1], is_decode=True), float(number))
    for number in range(1, 4):
        log.received(number, (StageTime(0.0, 0.1),), number + 5.0, n_generated=2)
    assert [frame.number for frame in log.since(7.0)] == [2, 3]
    assert log.since(7.0)[0].n_generated == 2
    assert log.in_flight_since == [4.0, 5.0]


def test_a_frame_whose_worker_tells_of_other_stages_is_not_remembered() -> None:
    log = FrameLog(n_stages=2)
    log.sent(PlannedFrame(1, tokens=[1]), 1.0)
    assert log.received(1, (StageTime(0.0, 0.1),), 2.0) is None
    assert not log.records
    assert log.in_flight_since == []
