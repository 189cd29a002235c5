# SPDX-License-Identifier: MIT
"""Workers on hosts of their own, network namespaces on a switch, whose links go down or lose packets: the ways to fail
that need root on Linux.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.chaos_team import LOST_SHARE, NAMES, Kind
from tests.netns.hosts import home, hosts
from tests.netns.mesh import HostWorker

_MTU = "1500"
"""Of an ordinary network: larger packets would be fewer, and rarely lost. None of them is a bundle of several."""


def why_not() -> str | None:
    """Why this user, or this machine, cannot make them, in a sentence; None: it can."""
    if os.geteuid() != 0:
        return "broken links need network namespaces, which only root may make"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"broken links need network namespaces, and the command {tool} of iproute2 to make them"
    try:
        with hosts(1) as (host,):
            host.lose(LOST_SHARE)
            host.lose_nothing()
    except subprocess.CalledProcessError as error:
        return f"this kernel cannot break links: {' '.join(error.cmd)}: {error.stderr.strip()}"
    return None


class HostTeam:
    """Of workers that live on while their links break."""

    def __init__(self, workers: Sequence[HostWorker]) -> None:
        self.addresses = [worker.address for worker in workers]
        self._hosts = {worker.name: worker.host for worker in workers}
        self._unplugged: set[str] = set()
        self._losing: set[str] = set()
        self._n_packets = self._n_dropped = 0

    @property
    def notes(self) -> Sequence[str]:
        """How many packets were lost."""
        if not self._n_packets:
            return []
        share = 100 * self._n_dropped / self._n_packets
        return [
            f"of the {self._n_packets} packets of links that lost some, {self._n_dropped} were dropped ({share:.1f} %)"
        ]

    def hit(self, name: str, kind: Kind) -> None:
        """On its link."""
        if kind is Kind.LINK:
            self._unplugged.add(name)
            self._hosts[name].pull_cable()
        else:
            self._losing.add(name)
            self._hosts[name].lose(LOST_SHARE)

    def restore(self, names: Sequence[str]) -> None:
        """Their links are whole again; what the workers make of that is theirs."""
        for name in self._unplugged.intersection(names):
            self._hosts[name].plug_in()
        for name in self._losing.intersection(names):
            n_packets, n_dropped = self._hosts[name].lose_nothing()
            self._n_packets += n_packets
            self._n_dropped += n_dropped
        self._unplugged -= {*names}
        self._losing -= {*names}


@contextlib.contextmanager
def host_team() -> Iterator[HostTeam]:
    """Workers on hosts that this machine reaches, gone with the context."""
    with contextlib.ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="caravan-chaos-")))
        (folder / "hidden").mkdir()
        network = resources.enter_context(hosts(len(NAMES)))
        for host in (*network, home(network)):
            host.run("ip", "link", "set", host.device, "mtu", _MTU, "gso_max_segs", "1")
        workers = []
        for host, name in zip(network, NAMES, strict=True):
            workers.append(HostWorker(host, name, folder / name, folder / "hidden"))
            resources.callback(workers[-1].stop)
        yield HostTeam(workers)
