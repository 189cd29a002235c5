# SPDX-License-Identifier: MIT
"""Workers and a coordinator on hosts of their own, each with a store of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.netns.coordinate import STARTED_VARIABLE
from tests.netns.hosts import Host

_ROOT = Path(__file__).parents[2]
_PORT = 50200
_STOP_TIMEOUT_S = 60
_RUN_TIMEOUT_S = 240


@dataclass(frozen=True)
class Outcome:
    """What a coordinator printed.

    Attributes:
        first_token_s: From the opening of the mesh, in seconds.
        whole_s: The same from the start of the process.
        origins: By worker, the bytes of its tensors by where they came from: "store", "coordinator", "peer NAME", or
            "warm" of a stage that was still loaded.
    """

    tokens: list[int]
    first_token_s: float
    whole_s: float
    origins: Mapping[str, Mapping[str, int]]


class HostWorker:
    """A worker on a host."""

    def __init__(self, host: Host, name: str, cache: Path, hidden: Path, *arguments: str) -> None:
        """Starts it, and waits until it is ready.

        Args:
            cache: Where its store is.
            hidden: A folder of another host's, which it does not see.
        """
        self.host, self.name = host, name
        self.address = f"{host.address}:{_PORT}"
        self._command = host.command(
            "sh", "-c", f'mount -t tmpfs none "{hidden}" && exec "$@"', "sh",
            sys.executable, "-m", "worker", "--json", "--name", name, "--parent-pid", str(os.getpid()), "--no-mdns",
            "--insecure", "--listen", self.address, "--threads", "1", *arguments,
        )  # fmt: skip
        self._environment = {**os.environ, "CARAVAN_CACHE": str(cache)}
        self.start()

    def start(self) -> None:
        """Once more, after `kill`."""
        self._process = subprocess.Popen(
            self._command, cwd=_ROOT, env=self._environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            _, complaint = self._process.communicate(timeout=_STOP_TIMEOUT_S)
            raise AssertionError(f"worker {self.name} did not start: {complaint}")

    def kill(self) -> None:
        """As a power cut would."""
        self._process.kill()
        self._process.communicate(timeout=_STOP_TIMEOUT_S)

    def stop(self) -> None:
        """As its owner would."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate(timeout=_STOP_TIMEOUT_S)


def start_coordinator(
    host: Host, cache: Path, model: Path | str, ranges: str, workers: Sequence[HostWorker]
) -> subprocess.Popen[str]:
    """Lays the layer ranges over the workers; see `coordinate`."""
    return subprocess.Popen(
        host.command(
            sys.executable, "-m", "tests.netns.coordinate", str(model), ranges, *(worker.address for worker in workers)
        ),
        cwd=_ROOT,
        env={**os.environ, "CARAVAN_CACHE": str(cache), STARTED_VARIABLE: str(time.monotonic())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def coordinate(host: Host, cache: Path, model: Path | str, ranges: str, workers: Sequence[HostWorker]) -> Outcome:
    """The same, to its end; AssertionError with what it complained of, if it fails."""
    process = start_coordinator(host, cache, model, ranges, workers)
    printed, complaint = process.communicate(timeout=_RUN_TIMEOUT_S)
    assert process.returncode == 0, complaint
    return Outcome(**json.loads(printed))


@contextlib.contextmanager
def serving_on(host: Host, model: Path) -> Iterator[str]:
    """While this lasts, the model is served there, at this address."""
    command = host.command(sys.executable, "-m", "tests.netns.serve", str(model), host.address)
    process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"{process.stdout.readline().strip()}/model.gguf"
    finally:
        process.terminate()
        process.communicate(timeout=_STOP_TIMEOUT_S)
