# SPDX-License-Identifier: MIT
"""One load or benchmark under way: the thread that does it, its progress, its end. No gRPC thread loads.

The Load call iterates `fractions` and then waits; cancelling the call calls `cancel`.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

_Result = TypeVar("_Result", covariant=True)

# llama.cpp reports each tensor; people see percent.
_REPORT_STEP = 0.01

# Told the fraction done, answers whether to go on.
Report = Callable[[float], bool]


class Loading(Generic[_Result]):
    """Work on a thread of its own that reports its progress and can be cancelled."""

    def __init__(self, work: Callable[[Report], _Result]) -> None:
        """Starts at once; `work` gets the report function and raises what it fails with."""
        self._work = work
        self._fractions: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self._reported = -1.0
        self._cancelled = threading.Event()
        self._result: _Result
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="loading", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Asks it to stop at the next report; nothing happens if it is done."""
        self._cancelled.set()

    def fractions(self) -> Iterator[float]:
        """Progress from 0 to 1 as it is made; ends when the work has, however it did. For one reader."""
        while (fraction := self._fractions.get()) is not None:
            yield fraction

    def wait(self) -> _Result:
        """Blocks until it is done; what it came to.

        Raises:
            Exception: what it failed with.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def settle(self) -> None:
        """Blocks until it is done, however it went."""
        self._thread.join()

    def _report(self, fraction: float) -> bool:
        if fraction >= self._reported + _REPORT_STEP or fraction >= 1.0 > self._reported:
            self._reported = fraction
            self._fractions.put(fraction)
        return not self._cancelled.is_set()

    def _run(self) -> None:
        try:
            self._result = self._work(self._report)
        except Exception as error:
            self._error = error
        finally:
            self._fractions.put(None)
