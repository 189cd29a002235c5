# SPDX-License-Identifier: MIT
"""The thread that brings what was fetched to the disk, model by model. Nothing waits for it but `flush`: a disk is
slower than a network, and until then the index knows what a power cut would take.
"""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

_LOG = logging.getLogger(__name__)

# How long it lets things gather: each round costs the disk a few writes of its own, and writing costs a network that is
# quicker the processor. The system itself begins as late.
_GATHER_S = 5.0
# A disk that hangs holds up nobody who leaves.
_CLOSE_S = 2.0


class Synced(Protocol):
    """What can be brought to the disk."""

    def sync(self, go_on: Callable[[], bool]) -> None:
        """Blocks until it is there, or until it is told not to go on. Raises OSError: it does not get there."""


class Syncer:
    """One thread, started when there is something to do."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: list[Synced] = []
        self._is_busy = False
        self._is_hurried = 0
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def add(self, model: Synced) -> None:
        """Something of it was written."""
        with self._condition:
            if self._is_closed:
                return
            if model not in self._waiting:
                self._waiting.append(model)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="syncing", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def flush(self) -> None:
        """Blocks until all that was added before is on the disk, or could not be brought there."""
        with self._condition:
            self._is_hurried += 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: not self._waiting and not self._is_busy)
            self._is_hurried -= 1

    def close(self) -> None:
        """Ends the thread soon; what was not brought to the disk yet is left to the system."""
        with self._condition:
            self._is_closed = True
            self._waiting.clear()
            self._condition.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(_CLOSE_S)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._is_closed)
                self._condition.wait_for(lambda: self._is_hurried or self._is_closed, timeout=_GATHER_S)
                if self._is_closed:
                    return
                models, self._waiting = self._waiting, []
                self._is_busy = True
            for model in models:
                self._sync(model)
            with self._condition:
                self._is_busy = False
                self._condition.notify_all()

    def _sync(self, model: Synced) -> None:
        try:
            model.sync(lambda: not self._is_closed)
        except OSError as error:
            if not self._is_closed:
                _LOG.warning("weights do not reach the disk, and may have to be fetched again: %s", error)
