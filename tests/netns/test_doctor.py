# SPDX-License-Identifier: MIT
"""`caravan doctor` over hosts, one of which cannot reach another."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.coordinator.caravan_command import ALONE, caravan
from tests.netns.hosts import home, hosts
from tests.netns.mesh import HostWorker

pytestmark = [pytest.mark.netns, pytest.mark.slow]


def test_doctor_names_port_and_machine_where_one_worker_cannot_reach_another(tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    with ExitStack() as resources:
        network = resources.enter_context(hosts(2))
        home(network)
        workers = []
        for number, host in enumerate(network, 1):
            workers.append(HostWorker(host, f"pc{number}", tmp_path / f"pc{number}", tmp_path / "hidden"))
            resources.callback(workers[-1].stop)
        first, second = workers
        first.host.run("ip", "route", "add", "unreachable", f"{second.host.address}/32")
        given = ("--worker", first.address, "--worker", second.address, "--insecure-workers")
        ended = caravan("doctor", *given, *ALONE)
    assert ended.returncode == 1, ended.stdout
    port = second.address.rpartition(":")[2]
    # They are reached from here, and one of them from the other.
    assert len(re.findall(r"^ok +pc[12] +at ", ended.stdout, re.MULTILINE)) == 2
    assert re.search(
        rf"^BAD +pc1 to pc2 +.*{re.escape(second.address)}.*\n +on \S+ let TCP port {port} in", ended.stdout, re.M
    )
