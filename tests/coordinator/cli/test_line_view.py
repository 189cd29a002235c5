# SPDX-License-Identifier: MIT
"""What `caravan top` draws, from figures that were made up."""

from __future__ import annotations

from coordinator.bottleneck import LimitKind
from coordinator.cli.line_view import drawn, printed
from coordinator.http.schemas.line import (
    FrameInfo,
    FrameMeansInfo,
    LimitInfo,
    LineInfo,
    LineStatus,
    RebalancedInfo,
    SpanInfo,
    StageRange,
    WorkerActivity,
)


def _frame(number: int, sent_s: float, *spans: tuple[str, int, float]) -> FrameInfo:
    """A frame with spans of such kinds, stages and seconds."""
    laid, now_s = [], sent_s
    for kind, stage, seconds in spans:
        span = {"kind": kind, "stage": stage, "start_s": now_s, "end_s": now_s + seconds}
        laid.append(SpanInfo.model_validate(span))
        now_s += seconds
    return FrameInfo(number=number, is_decode=number > 1, n_tokens=64, sent_s=sent_s, received_s=now_s, spans=laid)


def _worker(name: str, start: int, end: int, busy: float) -> WorkerActivity:
    return WorkerActivity(
        worker=name,
        layer_start=start,
        layer_end=end,
        busy_share=busy,
        waiting_share=0.75 - busy,
        idle_share=0.25,
        n_queued=0.5,
        tokens_per_s=32.0,
        decode_frame_s=0.0125,
        prefill_frame_s=0.25,
    )


def _status(*frames: FrameInfo, sentence: str = "desk is busy.") -> LineStatus:
    means = FrameMeansInfo(
        n_frames=10, frames_per_s=1, n_tokens=40, mean_batch=4, largest_batch=8, trip_s=0.05, beside_s=0.01
    )
    stages = [StageRange(worker=name, layer_start=0, layer_end=4) for name in ("desk", "attic")]
    rebalanced = RebalancedInfo(stages=stages, gain=1.5, option="--layers desk=0-3,attic=4-7")
    line = LineInfo(
        n_running=3,
        n_waiting=2,
        n_slots=3,
        n_in_flight=2,
        mean_in_flight=2.0,
        n_prompt_tokens=200,
        n_reused_tokens=50,
        generated_per_s=4.0,
        prompt_tokens_per_s=28.0,
        decode=means,
        prefill=means,
        stages=[_worker("desk", 0, 6, 0.75), _worker("attic\x1b[2J", 6, 8, 0.25)],
        limit=LimitInfo(kind=LimitKind.BUSY_WORKER, sentence=sentence, worker="desk", rebalanced=rebalanced),
        frames=list(frames),
    )
    return LineStatus(model="tale", window_s=10, lines=[line])


def test_a_line_that_broke_says_so() -> None:
    status = _status()
    status.lines[0].is_suspended = True
    assert "the line broke: requests wait until others carry on" in "\n".join(map(str, drawn(status, 100, 40)))


def test_each_frame_is_a_row_on_one_time_axis() -> None:
    first = (("hop", 0, 1.0), ("computing", 0, 3.0), ("held", 0, 1.0), ("hop", 1, 1.0), ("computing", 1, 2.0))
    second = (("hop", 0, 1.0), ("waiting", 0, 2.0), ("computing", 0, 2.0), ("computing", 1, 0.2), ("hop", 2, 0.8))
    frames = [
        _frame(number, sent_s / 100, *((kind, stage, seconds / 100) for kind, stage, seconds in spans))
        for number, sent_s, spans in ((1, 0.0, (*first, ("hop", 2, 2.0))), (2, 6.0, (*second, ("hop", 2, 2.0))))
    ]
    # Twelve characters for the label, fourteen for 140 ms, one left over.
    rows = printed(drawn(_status(*frames), 12 + 14 + 1, 40)).splitlines()
    start = rows.index("last frames, 10.0 ms a character")
    assert rows[start + 1 : start + 3] == [
        "prompt   64 -111~-22--",
        "decode   64       -..112--",
    ]


def test_a_worker_has_a_bar_of_its_time_and_cannot_steer_the_terminal() -> None:
    text = printed(drawn(_status(), 100, 24))
    assert "requests: 3 running in 3 slots, 2 waiting; cache: 50 of 200 prompt tokens (25%)" in text
    desk, attic = (row for row in text.splitlines() if row[:1].isdigit())
    assert desk.split()[:5] == ["1", "desk", "0-5", "#########", "75%"]
    assert attic.split()[:5] == ["2", "attic?[2J", "6-7", "###......", "25%"]
    assert "\x1b" not in text
    assert text.endswith("desk is busy.\n  --layers desk=0-3,attic=4-7\n")


def test_what_is_drawn_fits_the_screen() -> None:
    frames = [_frame(number, number / 100, ("computing", 0, 0.05)) for number in range(60)]
    texts = drawn(_status(*frames, sentence="All of this is so. " * 12), 80, 24)
    n_rows = sum(1 if text.no_wrap else 1 + len(text) // 80 for text in texts)
    assert 20 <= n_rows <= 24
