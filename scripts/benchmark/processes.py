# SPDX-License-Identifier: MIT
"""Processes of a benchmark: pinned to one core where they compute, and gone when it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_STOP_TIMEOUT_S = 10


@contextlib.contextmanager
def process(
    command: Sequence[str], *, core: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process with its input and output as text, pinned to `core` if given."""
    # taskset rather than a function between fork and exec: gRPC's threads would not survive that.
    pinned = [] if core is None else ["taskset", "--cpu-list", str(core)]
    started = subprocess.Popen(
        [*pinned, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        for pipe in (started.stdin, started.stdout):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def delayed(prefix: Sequence[str], host: str, port: int, delay_ms: float) -> Iterator[int]:
    """A port of that host that leads to `port` with that one-way delay; `port` itself without one.

    Args:
        prefix: What runs a command on that host.
    """
    if delay_ms == 0:
        yield port
        return
    near = free_port()
    forwarder = Path(__file__).with_name("delay.py")
    with process([*prefix, sys.executable, str(forwarder), host, str(near), str(port), str(delay_ms)]):
        wait_for_port(host, near)
        yield near


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(host: str, port: int, timeout_s: float = 20) -> None:
    """Waits until somebody listens; TimeoutError if nobody does."""
    deadline = time.monotonic() + timeout_s
    while not _is_listening(host, port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody listens on port {port} of {host} after {timeout_s:g} s")
        time.sleep(0.05)


def _is_listening(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
