# SPDX-License-Identifier: MIT
"""Ports of loopback that a test names before anybody listens there, or at which somebody will listen again."""

import contextlib
import secrets
import socket
from collections.abc import Iterator

# Below those that Linux (from 32768) and macOS (from 49152) give to whoever asks for any: a port that was given so, and
# is free again, may at once be that of another test's connection. Even ones, so that what takes the next one beside its
# own is in nobody's way.
_FIRST, _N_PORTS = 20_000, 6_000


def own_port() -> int:
    """One that is free, and stays so until the caller has somebody listen there."""
    while True:
        port = _FIRST + 2 * secrets.randbelow(_N_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def nobodys_address() -> Iterator[str]:
    """``127.0.0.1:PORT`` where nobody listens, and nobody can."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"
