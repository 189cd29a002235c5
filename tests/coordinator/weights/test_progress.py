# SPDX-License-Identifier: MIT
"""How far weights are: speeds and totals of what workers report, how it is shown, and that who is told can stop it."""

from __future__ import annotations

import asyncio
import io
import json
from functools import partial

import pytest
from rich.console import Console

from coordinator import CancelledError, LoadEvent, LoadPhase, Mesh
from coordinator.cli import progress as shown
from coordinator.cli.progress import LoadProgress, as_data, load_progress
from coordinator.plan import Stage
from coordinator.weights import telling as telling_module
from coordinator.weights.progress import LoadMeter, LoadReport, Transfer, WeightOrigin, WeightShare
from coordinator.weights.telling import LineTelling
from coordinator.workers import StageMemory
from native import LayerRange

_MIB = 1 << 20


class _Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _report(fetched: int, to_fetch: int, *shares: WeightShare) -> LoadReport:
    return LoadReport(fetched / to_fetch, to_fetch, fetched, shares)


def test_speed_is_that_of_the_last_seconds_and_remaining_time_follows() -> None:
    clock = _Clock()
    meter = LoadMeter(["attic", "cellar"], clock)
    meter.note("attic", _report(0, 1000 * _MIB))
    meter.note("cellar", LoadReport(0.5))
    assert (meter.transfer("attic").bytes_per_s, meter.transfer("attic").remaining_s) == (0, None)
    assert meter.transfer("cellar") == Transfer()
    for second in range(1, 11):
        clock.now_s += 1
        meter.note("attic", _report(min(10 * second, 80) * _MIB, 1000 * _MIB))
    # Two of the last four seconds brought nothing.
    assert meter.transfer("attic").bytes_per_s == pytest.approx(5 * _MIB)
    assert meter.transfer("attic").remaining_s == pytest.approx(920 / 5)
    assert meter.total.fetched_bytes == 80 * _MIB
    assert meter.total_fraction == pytest.approx((0.08 + 0.5) / 2)
    clock.now_s += 60
    assert meter.transfer("attic").remaining_s is None
    assert (meter.is_fetching("attic"), meter.is_fetching("cellar")) == (True, False)
    meter.finish("attic")
    assert (meter.is_fetching("attic"), meter.fraction("attic")) == (False, 1)


def test_the_total_is_by_source() -> None:
    meter = LoadMeter(["attic", "cellar"], _Clock())
    meter.note("attic", _report(30, 50, WeightShare(WeightOrigin.COORDINATOR, "", 30)))
    theirs = (WeightShare(WeightOrigin.COORDINATOR, "", 5), WeightShare(WeightOrigin.PEER, "attic", 7))
    meter.note("cellar", _report(12, 20, *theirs))
    assert meter.total.shares == (
        WeightShare(WeightOrigin.COORDINATOR, "", 35),
        WeightShare(WeightOrigin.PEER, "attic", 7),
    )


def test_what_no_worker_can_mean_is_not_shown() -> None:
    meter = LoadMeter(["attic"], _Clock())
    meter.note("attic", LoadReport(float("nan"), 10, 20))
    assert (meter.fraction("attic"), meter.transfer("attic").fetched_bytes) == (0, 10)


def _event(worker: str, fraction: float, transfer: Transfer, total: Transfer) -> LoadEvent:
    layers = LayerRange(0, 4)
    return LoadEvent(LoadPhase.LOADING, f"{worker} loads", worker, layers, fraction, transfer, 0.25, total)


_SHARES = (
    WeightShare(WeightOrigin.STORE, "", 30 * _MIB),
    WeightShare(WeightOrigin.COORDINATOR, "", 512 * _MIB),
    WeightShare(WeightOrigin.PEER, "cellar", 192 * _MIB),
    WeightShare(WeightOrigin.INTERNET, "", 64 * _MIB),
)
_HALF_WAY = Transfer(1536 * _MIB, 768 * _MIB, 8 * _MIB, _SHARES)


def test_a_terminal_has_a_row_for_each_worker_and_a_total(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=200)
    monkeypatch.setattr(shown, "stderr", terminal)
    with LoadProgress() as progress:
        progress(_event("attic", 0.5, _HALF_WAY, _HALF_WAY))
        progress(_event("cellar", 0.1, Transfer(), _HALF_WAY))
        progress(LoadEvent(LoadPhase.FETCHING, "downloading it", fraction=0.5, transfer=Transfer(200, 100)))
        progress._bars.refresh()
    assert isinstance(terminal.file, io.StringIO)
    text = terminal.file.getvalue()
    assert "attic loads layers 0 to 3" in text
    assert "768 MiB of 1.5 GiB from the coordinator, cellar, the internet, 8.0 MiB/s, 1:36 left" in text
    assert "all workers" in text
    assert "100 B of 200 B" in text


def test_without_a_terminal_there_is_a_line_for_each_worker_when_it_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(shown, "say", lines.append)
    with load_progress() as progress:
        for fraction in (0.0, 0.5, 1.0, 1.0):
            progress(_event("attic", fraction, _HALF_WAY, _HALF_WAY))
        progress(_event("cellar", 1.0, Transfer(), _HALF_WAY))
    assert lines == [
        "attic has loaded layers 0 to 3 (512 MiB from the coordinator, 192 MiB from cellar, "
        "64.0 MiB from the internet, 30.0 MiB were there)",
        "cellar has loaded layers 0 to 3",
    ]


def test_as_json_each_event_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(shown, "say", lines.append)
    event = _event("attic", 0.5, _HALF_WAY, Transfer())
    with load_progress(as_json=True) as progress:
        progress(event)
        progress(LoadEvent(LoadPhase.PLANNING, "planning"))
    loading, planning = map(json.loads, lines)
    assert planning == {"phase": "planning", "message": "planning"}
    assert loading == as_data(event)
    assert (loading["worker"], loading["layer_start"], loading["layer_end"]) == ("attic", 0, 4)
    assert (loading["to_fetch_bytes"], loading["fetched_bytes"], loading["remaining_s"]) == (
        1536 * _MIB,
        768 * _MIB,
        96,
    )
    assert loading["sources"][2] == {"source": "peer", "worker": "cellar", "bytes": 192 * _MIB}
    assert loading["sources"][3] == {"source": "internet", "worker": None, "bytes": 64 * _MIB}
    assert loading["total"]["to_fetch_bytes"] == 0


def _stage(worker: str) -> Stage:
    return Stage(worker, "127.0.0.1:1", "CPU", LayerRange(0, 1), StageMemory(0, 0), 0)


async def test_a_load_that_stands_still_is_told_of_and_can_be_called_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling_module, "_TICK_S", 0.01)
    stage, n_told, ended = _stage("attic"), 0, asyncio.Event()

    def tell(event: LoadEvent) -> None:
        nonlocal n_told
        n_told += 1
        if n_told == 5:
            raise CancelledError("enough")

    async def stand_still(telling: LineTelling) -> None:
        telling.note(stage, LoadReport(0.1, 100, 10))
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    telling = LineTelling([stage], tell)
    with pytest.raises(CancelledError, match="enough"):
        await telling.during([partial(stand_still, telling)])
    assert ended.is_set()


async def test_when_one_load_fails_the_others_are_over_before_it_is_told() -> None:
    stages, ended = [_stage("attic"), _stage("cellar")], asyncio.Event()

    async def fail() -> None:
        raise ValueError("it fails")

    async def last() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.01)
            ended.set()

    with pytest.raises(ValueError, match="it fails"):
        await LineTelling(stages, lambda _: None).during([fail, last])
    assert ended.is_set()


@pytest.mark.parametrize("phase", [LoadPhase.STARTING, LoadPhase.LOADING])
def test_a_callback_that_gives_false_calls_everything_off(phase: LoadPhase) -> None:
    seen: list[LoadEvent] = []

    def stop(event: LoadEvent) -> bool:
        seen.append(event)
        return event.phase is not phase

    with pytest.raises(CancelledError, match="called off by on_progress, which gave False"):
        Mesh.open("demo", discover=False, local_workers=1, context=256, on_progress=stop)
    assert seen[-1].phase is phase
