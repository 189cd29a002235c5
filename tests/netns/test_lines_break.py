# SPDX-License-Identifier: MIT
"""Lines over hosts whose network breaks: the answer goes on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from coordinator import Distribution, Mesh
from coordinator.models import resolve_model
from native import LayerRange
from tests.line.conftest import N_BATCH, N_CTX
from tests.line.endless_streams import endless
from tests.line.near_ties import check_same
from tests.line.reference import Reference
from tests.netns.hosts import home, hosts
from tests.netns.mesh import HostWorker

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(180)]

_PROMPT = "Once upon a time"
_N_TOKENS = 200
_THIRDS = {"pc1": LayerRange(0, 3), "pc2": LayerRange(3, 6), "pc3": LayerRange(6, 8)}


@pytest.fixture(scope="module")
def demo() -> Path:
    return resolve_model("demo").path


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Sequence[HostWorker]]:
    """Three on hosts of their own, which this machine reaches."""
    (tmp_path / "hidden").mkdir()
    with ExitStack() as resources:
        network = resources.enter_context(hosts(3))
        home(network)
        started = []
        for number, host in enumerate(network, 1):
            started.append(HostWorker(host, f"pc{number}", tmp_path / f"pc{number}", tmp_path / "hidden"))
            resources.callback(started[-1].stop)
        yield started


def _goes_on(mesh: Mesh, demo: Path, break_something: Callable[[], None]) -> float:
    """Breaks something in the middle of an answer; gives how long it paused at most, in seconds."""
    sampling = endless(mesh)
    generation = mesh.generate(_PROMPT, sampling=sampling, max_tokens=_N_TOKENS)
    times_s = []
    for _token in generation:
        times_s.append(time.monotonic())
        if len(times_s) == 20:
            break_something()
    reference = Reference(demo, n_ctx=N_CTX, n_batch=N_BATCH)
    forbidden = [number for number, _ in sampling.logit_bias]
    expected = reference.greedy_tokens(generation.prompt_tokens, _N_TOKENS, forbidden=forbidden)
    check_same(reference, generation.prompt_tokens, expected, generation.tokens)
    reference.close()
    return max(after - before for before, after in itertools.pairwise(times_s))


def test_a_machine_whose_cable_is_pulled_is_done_without(workers: Sequence[HostWorker], demo: Path) -> None:
    with _open(workers) as mesh:
        lost = _second(mesh, workers)
        assert 4 < _goes_on(mesh, demo, lost.host.pull_cable) < 12
        assert lost.name not in {stage.worker for stage in mesh.plan.stages}


def test_a_link_that_loses_a_third_of_its_packets_costs_time_and_no_answer(
    workers: Sequence[HostWorker], demo: Path
) -> None:
    with _open(workers) as mesh:
        host = _second(mesh, workers).host
        _goes_on(mesh, demo, lambda: host.lose(0.3))
        n_packets, n_dropped = host.lose_nothing()
        assert 0.2 < n_dropped / n_packets < 0.4


def test_a_link_that_only_two_workers_have_between_them_is_noticed_and_gone_round(
    workers: Sequence[HostWorker], demo: Path
) -> None:
    with _open(workers) as mesh:
        by_name = {worker.name: worker.host for worker in workers}
        first, second = (by_name[stage.worker] for stage in mesh.plan.stages[:2])

        def cut() -> None:
            """What one sends to the other is lost."""
            first.run("ip", "route", "add", "blackhole", second.address)
            second.run("ip", "route", "add", "blackhole", first.address)

        assert 4 < _goes_on(mesh, demo, cut) < 40
        hosts_in_line = [by_name[stage.worker] for stage in mesh.plan.stages]
        neighbours = list(itertools.pairwise(hosts_in_line))
        assert (first, second) not in neighbours
        assert (second, first) not in neighbours


def test_a_last_worker_that_does_not_reach_the_first_is_noticed_and_the_answer_goes_on(
    workers: Sequence[HostWorker], demo: Path
) -> None:
    """A lone stream's tokens go straight back from one to the other."""
    with _open(workers, pinned=_THIRDS) as mesh:
        by_name = {worker.name: worker.host for worker in workers}
        first, last = (by_name[mesh.plan.stages[place].worker] for place in (0, -1))

        def cut() -> None:
            last.run("ip", "route", "add", "blackhole", first.address)

        # The next line has the same stages in the same order, and does without that way.
        assert 4 < _goes_on(mesh, demo, cut) < 12
        assert len(mesh.recovered) == 1


def _second(mesh: Mesh, workers: Sequence[HostWorker]) -> HostWorker:
    return next(worker for worker in workers if worker.name == mesh.plan.stages[1].worker)


def _open(workers: Sequence[HostWorker], pinned: Mapping[str, LayerRange] | None = None) -> Mesh:
    return Mesh.open(
        "demo",
        workers=[worker.address for worker in workers],
        discover=False,
        insecure_workers=True,
        context=N_CTX,
        batch=N_BATCH,
        distribution=Distribution.ON,
        pinned=pinned or {},
    )
