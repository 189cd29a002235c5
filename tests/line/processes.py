# SPDX-License-Identifier: MIT
"""Real worker processes for the tests of this folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.ports import own_port

_ROOT = Path(__file__).parents[2]
_STOP_TIMEOUT_S = 60
_THAW_S = 0.2


class WorkerProcess:
    """A worker that is ready, on loopback."""

    def __init__(
        self,
        name: str,
        *arguments: str,
        announced: bool = False,
        module: Sequence[str] = ("worker",),
        cache: Path | None = None,
    ) -> None:
        """Starts it, with one thread so that several share a small machine, and waits until it is ready. When it
        is gone, another one can be started with `--listen` and its address.

        Args:
            module: What to run, with arguments of its own.
            cache: Where it remembers what it measured; None: where all do.
        """
        self.name = name
        self._is_frozen = False
        quiet = [] if announced else ["--no-mdns"]
        listen = [] if "--listen" in arguments else ["--listen", f"127.0.0.1:{own_port()}"]
        command = [sys.executable, "-m", *module, "--json", "--name", name, "--parent-pid", str(os.getpid())]
        command += ["--threads", "1", *quiet, *listen, *arguments]
        environment = os.environ if cache is None else {**os.environ, "CARAVAN_CACHE": str(cache)}
        self._process = subprocess.Popen(
            command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, complaint = self._process.communicate(timeout=_STOP_TIMEOUT_S)
            raise AssertionError(f"worker {name} did not start: {complaint}")
        self.address: str = json.loads(line)["address"]

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send_signal(self, signal_: signal.Signals) -> None:
        """Whichever."""
        self._is_frozen |= signal_ == signal.SIGSTOP
        self._process.send_signal(signal_)

    def kill(self) -> None:
        """As a power cut would."""
        self._process.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """As its owner would."""
        self._process.send_signal(signal.SIGTERM)

    def freeze(self) -> None:
        """It stays, and answers nothing."""
        self._is_frozen = True
        self._process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        """Ends it, however it stands."""
        if self._process.poll() is None:
            if self._is_frozen:
                self._process.send_signal(signal.SIGCONT)
                # A signal that comes before the main thread runs again goes to another one, and wakes nobody.
                time.sleep(_THAW_S)
            self._process.terminate()
        try:
            self._process.communicate(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate(timeout=_STOP_TIMEOUT_S)
            raise
