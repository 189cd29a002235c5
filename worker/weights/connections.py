# SPDX-License-Identifier: MIT
"""The connections of one fetch: to peers, which it makes, and to a coordinator, which that makes.

Each has a thread of its own. Guarded by its fetch's lock, but for `join`.
"""

import itertools
import socket
import threading
import time
from collections.abc import Callable

from worker.weights.asker import Asker, Work
from worker.weights.sources import Source


class Connections:
    """Those that there are, by number."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._numbers = itertools.count()
        self._askers: dict[int, Asker] = {}
        self._threads: list[threading.Thread] = []

    def add(self, source: Source, connection: socket.socket | Callable[[], socket.socket]) -> int:
        """Begins to ask, over what is given or what that makes; its number."""
        number = next(self._numbers)
        asker = self._askers[number] = Asker(number, source, self._work, connection)
        thread = threading.Thread(target=asker.run, name=f"fetch-{number}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return number

    def remove(self, number: int) -> Source:
        """It ended; whom it led to."""
        return self._askers.pop(number).source

    def n_to(self, source: Source) -> int:
        """How many lead to that one."""
        return sum(asker.source == source for asker in self._askers.values())

    def hang_up_overdue(self) -> None:
        """Ends those whose other end takes too long."""
        now = time.monotonic()
        for asker in self._askers.values():
            if asker.is_overdue(now):
                asker.hang_up()

    def hang_up(self) -> None:
        """Ends them all."""
        for asker in self._askers.values():
            asker.hang_up()

    def join(self) -> None:
        """Blocks until their threads have ended, after `hang_up` and when no more are added."""
        for thread in self._threads:
            thread.join()
