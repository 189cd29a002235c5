# SPDX-License-Identifier: MIT
"""Workers that something befalls, and what that may be: processes of this machine get signals; `chaos_hosts` has those
whose network breaks.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from benchmark.processes import free_port
from tests.line.processes import WorkerProcess

NAMES = ("attic", "cellar", "desk", "shed")
APART_S = 0.1
"""Between the two of a double failure."""
LOST_SHARE = 0.3
"""Of a link's packets, of each direction."""


class Kind(str, Enum):
    """A way to fail."""

    NOTHING = "nothing"
    KILL = "kill"
    TERMINATE = "terminate"
    ABORT = "abort"
    FREEZE = "freeze"
    TWO = "two"
    LINK = "link"
    LOSS = "loss"

    def __str__(self) -> str:
        return self.value


WHAT = {
    Kind.NOTHING: "nothing, for comparison",
    Kind.KILL: "one is killed (-9)",
    Kind.TERMINATE: "one is told to end (-15)",
    Kind.ABORT: "one aborts, as in llama.cpp (-6)",
    Kind.FREEZE: "one is frozen (SIGSTOP)",
    Kind.TWO: f"two are killed, {APART_S * 1000:.0f} ms apart",
    Kind.LINK: "one's link is down",
    Kind.LOSS: f"one's link loses {LOST_SHARE * 100:.0f} % of its packets",
}

OF_NETWORK = (Kind.LINK, Kind.LOSS)

_SIGNALS = {
    Kind.KILL: signal.SIGKILL,
    Kind.TERMINATE: signal.SIGTERM,
    Kind.ABORT: signal.SIGABRT,
    Kind.FREEZE: signal.SIGSTOP,
    Kind.TWO: signal.SIGKILL,
}


class Team(Protocol):
    """Four workers, by name."""

    @property
    def addresses(self) -> Sequence[str]:
        """Where they are, and stay."""

    @property
    def notes(self) -> Sequence[str]:
        """What is to be said of all that befell them, in sentences."""

    def hit(self, name: str, kind: Kind) -> None:
        """What the kind says befalls the worker of that name."""

    def restore(self, names: Sequence[str]) -> None:
        """Ends what befell those."""


class ProcessTeam:
    """Processes on loopback, each on a port that its successors get too."""

    notes = ()

    def __init__(self) -> None:
        self.addresses = [f"127.0.0.1:{free_port()}" for _ in NAMES]
        self._workers = [self._start(number) for number in range(len(NAMES))]

    def hit(self, name: str, kind: Kind) -> None:
        """By a signal."""
        self._workers[NAMES.index(name)].send_signal(_SIGNALS[kind])

    def restore(self, names: Sequence[str]) -> None:
        """Starts others in place of those."""
        for number in map(NAMES.index, names):
            self._end(self._workers[number])
            self._workers[number] = self._start(number)

    def close(self) -> None:
        """Ends all."""
        for worker in self._workers:
            self._end(worker)

    def _start(self, number: int) -> WorkerProcess:
        return WorkerProcess(NAMES[number], "--listen", self.addresses[number])

    @staticmethod
    def _end(worker: WorkerProcess) -> None:
        worker.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.stop()
