# SPDX-License-Identifier: MIT
"""Calling off what blocks on threads of this package: reads of files, of sockets and of servers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from coordinator.errors import CancelledError
from protos.channels import hang_up


class Cancellation:
    """Asked for once, from any thread; whoever works under it ends with CancelledError."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()

    @property
    def is_asked(self) -> bool:
        """Whether it was asked for."""
        return self._asked.is_set()

    def cancel(self) -> None:
        """Asks for it, and wakes who waits: for a time, or at a connection."""
        self._asked.set()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            wake(connection)

    def check(self) -> None:
        """Raises CancelledError where it was asked for."""
        if self.is_asked:
            raise CancelledError("fetching weights was called off")

    def wait(self, seconds: float) -> None:
        """Waits so long. Raises CancelledError when it is asked for meanwhile."""
        self._asked.wait(seconds)
        self.check()

    @contextlib.contextmanager
    def wakes(self, connection: socket.socket) -> Iterator[None]:
        """While this lasts, `cancel` ends what waits at the connection."""
        with self._lock:
            self._connections.add(connection)
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._connections.discard(connection)


def wake(connection: socket.socket) -> None:
    """Ends whatever waits at a connection, on whichever thread; it stays that thread's to close."""
    with contextlib.suppress(OSError):
        hang_up(connection)
