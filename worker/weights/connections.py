# SPDX-License-Identifier: MIT
"""The connections of one fetch: to peers and servers, which it makes, and to a coordinator, which that makes.

Each has a thread of its own. Guarded by its fetch's lock, but for `join`.
"""

import itertools
import socket
import threading
import time
from collections.abc import Callable

from worker.weights.asker import Asker
from worker.weights.internet import Internet
from worker.weights.sources import Source
from worker.weights.web import WebAsker, WebWork

_END_S = 0.1


class Connections:
    """Those that there are, by number."""

    def __init__(self, work: WebWork) -> None:
        self._work = work
        self._numbers = itertools.count()
        self._askers: dict[int, Asker | WebAsker] = {}
        self._threads: list[tuple[Asker | WebAsker, threading.Thread]] = []

    def add(self, source: Source, connection: socket.socket | Callable[[], socket.socket]) -> int:
        """Begins to ask, over what is given or what that makes; its number."""
        return self._start(Asker(next(self._numbers), source, self._work, connection))

    def add_web(self, internet: Internet) -> int:
        """The same for one to the model's own server."""
        return self._start(WebAsker(next(self._numbers), self._work, internet))

    def _start(self, asker: Asker | WebAsker) -> int:
        self._askers[asker.number] = asker
        thread = threading.Thread(target=asker.run, name=f"fetch-{asker.number}", daemon=True)
        self._threads.append((asker, thread))
        thread.start()
        return asker.number

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

    def hang_up(self, source: Source | None = None) -> list[int]:
        """Ends all that lead to that one, or all; which."""
        ended = [asker for asker in self._askers.values() if source in (None, asker.source)]
        for asker in ended:
            asker.hang_up()
        return [asker.number for asker in ended]

    def join(self) -> None:
        """Blocks until their threads have ended, after `hang_up` and when no more are added; but for those that look
        for a server, which nothing ends. They touch nothing any more when they find it."""
        for asker, thread in self._threads:
            thread.join(_END_S)
            while thread.is_alive() and not (isinstance(asker, WebAsker) and asker.is_connecting):
                thread.join(_END_S)
