# SPDX-License-Identifier: MIT
"""Workers that come back, or are new, are taken into a line that serves, where that makes it better."""

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordinator import Distribution, LayerRange, LineChange, LineEvent, Mesh, joining, welcome
from tests.line.conftest import StartWorker, open_mesh
from tests.line.endless_streams import PROMPTS, EndlessStreams
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference

_SLOW_S = 0.01
"""For a layer, beside the milliseconds that it takes."""

_BY_HAND = (LayerRange(0, 1), LayerRange(1, 3), LayerRange(3, 8))


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "LOOK_EVERY_S", 0.3)


StartFar = Callable[..., WorkerProcess]


@pytest.fixture
def start_far(tmp_path: Path) -> Iterator[StartFar]:
    """Starts workers on machines of their own, which take so many seconds more for each layer."""
    started: list[WorkerProcess] = []

    def start(name: str, seconds: float, *arguments: str, announced: bool = False) -> WorkerProcess:
        (tmp_path / name).mkdir(exist_ok=True)
        module = ("tests.line.slow_worker", str(seconds))
        started.append(WorkerProcess(name, *arguments, module=module, cache=tmp_path / name, announced=announced))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()


def _wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline_s = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline_s, "it did not come to that"
        time.sleep(0.05)


def _names(mesh: Mesh) -> set[str]:
    return {stage.worker for stage in mesh.plan.stages}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="as many as possible"),
        pytest.param({"layer_ranges": _BY_HAND}, id="layers by hand", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_was_killed_is_back_in_the_line_when_nothing_runs(
    options: dict[str, object], start_worker: StartWorker, reference: Reference
) -> None:
    team = [start_worker(name) for name in ("attic", "cellar", "desk")]
    events: list[LineEvent] = []
    with open_mesh(team, on_event=events.append, **options) as mesh:
        ranges = [(stage.worker, stage.layers) for stage in mesh.plan.stages]
        streams = EndlessStreams(mesh, 40, PROMPTS[:2])
        killed = team[1]
        with streams.running():
            _wait_for(lambda: mesh.n_running > 0)
            killed.kill()
            _wait_for(lambda: len(mesh.recovered) == 1)
            killed.stop()
            start_worker(killed.name, "--listen", killed.address)
        assert _names(mesh) == {"attic", "desk"}
        _wait_for(lambda: len(mesh.joined) == 1)
        assert _names(mesh) == {"attic", "cellar", "desk"}
        assert (mesh.joined[0].workers, mesh.joined[0].n_streams) == (("cellar",), 0)
        assert events[-1].change is LineChange.JOINED
        assert events[-1].message.startswith("worker cellar joined: going on with ")
        if options:
            assert [(stage.worker, stage.layers) for stage in mesh.plan.stages] == ranges
        with streams.running():
            pass
        streams.check(reference)


@pytest.mark.slow
def test_a_faster_worker_is_taken_in_under_streams_and_a_slower_one_is_not(
    start_far: StartFar, reference: Reference
) -> None:
    team = {"tortoise": _SLOW_S, "snail": 3 * _SLOW_S, "hare": 0.0}
    workers = [start_far(name, seconds) for name, seconds in team.items()]
    with open_mesh(workers, distribution=Distribution.AUTO) as mesh:
        assert _names(mesh) == {"hare"}
        for worker in workers[1:]:
            worker.kill()
            worker.stop()
        streams = EndlessStreams(mesh, 60, PROMPTS[:2])
        assert _names(mesh) == {"tortoise"}
        with streams.running():
            for worker in workers[1:]:
                start_far(worker.name, team[worker.name], "--listen", worker.address)
            _wait_for(lambda: len(mesh.joined) == 1)
            n_ended = streams.n_ended
            _wait_for(lambda: streams.n_ended >= n_ended + 4)
        streams.check(reference)
        assert [(joined.workers, joined.n_streams) for joined in mesh.joined] == [(("hare",), 2)]
        assert (_names(mesh), len(mesh.recovered)) == ({"hare"}, 1)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_faster_worker_that_shows_itself_takes_over_from_the_only_one(start_far: StartFar) -> None:
    tortoise, hare = (f"{name}-{secrets.token_hex(4)}" for name in ("tortoise", "hare"))
    only_one = start_far(tortoise, _SLOW_S)
    options = {"distribution": Distribution.AUTO, "predicted": True, "discover": True, "discovery_timeout_s": 0.1}
    with open_mesh([only_one], **options) as mesh:
        assert _names(mesh) == {tortoise}
        start_far(hare, 0.0, announced=True)
        _wait_for(lambda: _names(mesh) == {hare}, seconds=120.0)


@pytest.mark.slow
def test_a_worker_that_dies_while_it_is_taken_in_costs_nothing_but_a_pause(
    start_worker: StartWorker, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    attic, cellar = (start_worker(name) for name in ("attic", "cellar"))
    with open_mesh([attic, cellar]) as mesh:
        streams = EndlessStreams(mesh, 40, PROMPTS[:2])
        cellar.kill()
        cellar.stop()
        with streams.running():
            _wait_for(lambda: len(mesh.recovered) == 1)
            cellar = start_worker("cellar", "--listen", cellar.address)

            async def kill(*_: object) -> bool:
                cellar.kill()
                return True

            monkeypatch.setattr(joining.Joining, "_good_moment", kill)
            _wait_for(lambda: len(mesh.recovered) == 2)
        streams.check(reference)
        assert (_names(mesh), mesh.joined) == ({"attic"}, ())


@pytest.mark.slow
def test_one_that_comes_and_goes_waits_and_keeps_nobody_else_from_joining(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    attic, cellar, desk = (start_worker(name) for name in ("attic", "cellar", "desk"))
    with open_mesh([attic, cellar, desk]) as mesh:

        def lose(worker: WorkerProcess, ban_s: float) -> None:
            monkeypatch.setattr(welcome, "_FIRST_BAN_S", ban_s)
            worker.kill()
            worker.stop()
            mesh.generate(PROMPTS[0], max_tokens=2).wait()
            assert worker.name not in _names(mesh)

        def bring_back(worker: WorkerProcess) -> None:
            start_worker(worker.name, "--listen", worker.address)

        lose(cellar, 1000.0)
        bring_back(cellar)
        time.sleep(2)
        assert _names(mesh) == {"attic", "desk"}
        lose(desk, 0.0)
        assert _names(mesh) == {"attic", "cellar"}  # a line that breaks takes whoever is there
        bring_back(desk)
        _wait_for(lambda: len(mesh.joined) == 1)
        assert (_names(mesh), mesh.joined[0].workers) == ({"attic", "cellar", "desk"}, ("desk",))
