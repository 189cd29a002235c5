# SPDX-License-Identifier: MIT
"""What a session counts, as Prometheus is told it."""

from __future__ import annotations

import re

import pytest

from coordinator.events import LineChange, LineEvent
from coordinator.frame_log import FrameRecord
from coordinator.frames import StageTime
from coordinator.http.exposition import Exposition
from coordinator.http.metrics import METRICS, Kind, ModelCounts, Snapshot
from coordinator.http.reports import snapshot_of
from coordinator.http.service import Service
from coordinator.resident import KnownModel
from coordinator.tally import Histogram, Tally


def _frame(*stages: StageTime, is_decode: bool = True) -> FrameRecord:
    return FrameRecord(1, is_decode, 3, 3, 0.0, 1.0, stages, n_guesses=2)


def test_a_histogram_counts_each_value_up_to_the_first_bound_that_holds_it() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.0, 0.1, 0.11, 1.0, 7.0):
        histogram.note(seconds)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total_s == pytest.approx(8.21)


def test_a_worker_keeps_its_counts_when_another_line_follows() -> None:
    tally = Tally()
    tally.begin_line(["a", "b"])
    tally.note_frame(_frame(StageTime(0.1, 0.2, sent_bytes=64), StageTime(0.0, 0.3)))
    tally.begin_line(["b"])
    tally.note_frame(_frame(StageTime(0.5, 1.0), is_decode=False))
    a, b = tally.stages["a"], tally.stages["b"]
    assert (a.n_frames, a.n_tokens, a.sent_bytes) == (1, 3, 64)
    assert (b.n_frames, b.n_tokens, b.busy_s, b.waiting_s) == (2, 6, 1.3, 0.5)
    assert (tally.n_decode_frames, tally.n_prefill_frames, tally.n_guesses) == (1, 1, 4)


def test_names_and_kinds_keep_to_prometheus_conventions() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"caravan_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert not re.search(r"_(ms|milliseconds|kib|mib|percent|per_s)(_|$)", metric.name), metric.name
        assert metric.meaning.endswith("."), metric.name


def test_a_break_and_what_came_of_it_are_counted() -> None:
    service = Service([KnownModel("m", "demo")])
    service.begin()
    service.note_event("m", LineEvent(LineChange.LOST, "the line broke", "a"))
    service.note_event("m", LineEvent(LineChange.RESUMED, "it goes on", "a", n_streams=2, pause_s=1.5))
    told = Exposition(lambda: snapshot_of(service)).text().decode()
    for line in (
        '_events_total{change="lost",model="m"} 1.0',
        '_events_total{change="gave up",model="m"} 0.0',
        '_pause_seconds_total{model="m"} 1.5',
    ):
        assert f"caravan_line{line}" in told


def test_while_it_loads_there_are_metrics_too() -> None:
    model = ModelCounts("m", {}, 0.0, is_loaded=False, lines=())
    snapshot = Snapshot("b1", is_ready=False, answers={("/health", "503"): 2}, models=[model])
    told = Exposition(lambda: snapshot).text().decode()
    assert "caravan_ready 0.0" in told
    assert 'caravan_model_loaded{model="m"} 0.0' in told
    assert 'caravan_http_requests_total{route="/health",status="503"} 2.0' in told
