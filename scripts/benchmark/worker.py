# SPDX-License-Identifier: MIT
"""A worker of a benchmark: one process with one thread, that nobody on the network hears of."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmark.processes import process

ON_CPU = ("--device", "CPU")


@dataclass(frozen=True)
class Started:
    """A worker that serves at `address`, HOST:PORT."""

    pid: int
    address: str

    @property
    def port(self) -> int:
        """Of its address."""
        return int(self.address.rsplit(":", 1)[1])


@contextlib.contextmanager
def started_worker(
    name: str,
    *options: str,
    core: int | None = None,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    is_member: bool = False,
) -> Iterator[Started]:
    """A worker, until the context ends.

    Args:
        options: Further ones of `caravan worker`.
        core: It is pinned there.
        prefix: What runs a command on its host.
        is_member: Of this user's cluster; else of none.
    """
    # With a parent it is the worker itself, and not its supervisor.
    command = [*prefix, sys.executable, "-m", "worker", "--json", "--no-mdns", "--threads", "1", "--name", name]
    command += ["--parent-pid", str(os.getpid()), *(() if is_member else ("--insecure",)), *options]
    with process(command, core=core, environment=environment) as running:
        assert running.stdout is not None
        yield Started(running.pid, json.loads(running.stdout.readline())["address"])
