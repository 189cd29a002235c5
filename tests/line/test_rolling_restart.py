# SPDX-License-Identifier: MIT
"""Every worker of a line is ended and started again, one after the other, under streams: no request fails, and each
has the tokens that it would have had."""

import time

import pytest

from coordinator import Mesh
from tests.line.conftest import StartWorker, open_mesh
from tests.line.endless_streams import PROMPTS, EndlessStreams
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference

_NAMES = ("attic", "cellar", "desk")


def _restart_each(team: dict[str, WorkerProcess], start_worker: StartWorker, mesh: Mesh, apart_s: float) -> None:
    """As systemd does: told to end, and started again where it was, when it is gone."""
    for name, worker in list(team.items()):
        time.sleep(apart_s)
        n_recovered = len(mesh.recovered)
        is_used = name in {stage.worker for stage in mesh.plan.stages}
        worker.terminate()
        worker.stop()
        team[name] = start_worker(name, "--listen", worker.address)
        deadline_s = time.monotonic() + 60
        while is_used and len(mesh.recovered) == n_recovered:
            assert time.monotonic() < deadline_s, f"nothing came of ending {name}"
            time.sleep(0.02)


def test_no_request_fails_while_each_worker_is_restarted(start_worker: StartWorker, reference: Reference) -> None:
    team = {name: start_worker(name) for name in _NAMES}
    with open_mesh(list(team.values()), parallel=len(PROMPTS)) as mesh:
        streams = EndlessStreams(mesh, n_tokens=24)
        with streams.running():
            _restart_each(team, start_worker, mesh, apart_s=0.2)
        streams.check(reference)
        assert len(mesh.recovered) == len(_NAMES)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_again_and_again_with_longer_streams(start_worker: StartWorker, reference: Reference) -> None:
    team = {name: start_worker(name) for name in _NAMES}
    with open_mesh(list(team.values()), parallel=len(PROMPTS)) as mesh:
        streams = EndlessStreams(mesh, n_tokens=250)
        with streams.running():
            for _ in range(5):
                _restart_each(team, start_worker, mesh, apart_s=3.0)
        streams.check(reference)
        assert len(mesh.recovered) > len(_NAMES)
