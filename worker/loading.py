# SPDX-License-Identifier: MIT
"""One load or benchmark under way: the thread that does it, its progress, its end. No gRPC thread loads.

The Load call iterates `events` and then waits; cancelling the call calls `cancel`.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from worker.weights.progress import FetchProgress

_Result = TypeVar("_Result", covariant=True)

# llama.cpp reports each tensor; people see percent, and want to see how fast it goes.
_REPORT_STEP = 0.01
_REPORT_S = 0.5

_NOTHING_FETCHED = FetchProgress()


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load is: the fraction done of all of it, and what came of its weights."""

    fraction: float
    fetch: FetchProgress = _NOTHING_FETCHED


@dataclass(frozen=True, slots=True)
class NeedsCoordinator:
    """The coordinator is to connect so many times, and to give weights."""

    n_connections: int


Event = LoadProgress | NeedsCoordinator

# Told the fraction done of what is loaded, answers whether to go on.
Report = Callable[[float], bool]


class Reporter:
    """What work under way tells of itself, on any thread: a Report when called, and a fetch's Listener."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._on_cancel: Callable[[], None] | None = None
        self._followed: Callable[[], FetchProgress] | None = None
        self._loaded = 0.0
        self._fetch = _NOTHING_FETCHED
        self._fraction = 0.0
        self._told: LoadProgress | None = None
        self._told_at = 0.0

    def __call__(self, fraction: float) -> bool:
        """So much of the weights is loaded; whether to go on."""
        followed = self._followed
        fetch = None if followed is None else followed()
        with self._lock:
            self._fetch = fetch or self._fetch
            self._loaded = max(self._loaded, fraction)
            self._report()
        return not self._cancelled.is_set()

    def follow(self, progress: Callable[[], FetchProgress] | None) -> None:
        """Where to look how far the fetch is, whenever there is something to tell."""
        self._followed = progress

    def fetched(self, progress: FetchProgress) -> None:
        """So far is the fetch of the weights."""
        with self._lock:
            self._fetch = progress
            self._report()

    def needs_coordinator(self, n_connections: int) -> None:
        """The fetch needs the coordinator."""
        self._tell(NeedsCoordinator(n_connections))

    def call_on_cancel(self, callback: Callable[[], None] | None) -> None:
        """What ends work that waits, called once at most, on the thread that cancels; at once if that was before."""
        with self._lock:
            self._on_cancel = callback
        if callback is not None and self._cancelled.is_set():
            callback()

    def cancel(self) -> None:
        """Asks the work to stop."""
        self._cancelled.set()
        with self._lock:
            callback = self._on_cancel
        if callback is not None:
            callback()

    def _report(self) -> None:
        """Fetching and loading overlap: each byte counts once for either. A fraction never falls."""
        fetch = self._fetch
        done_bytes = self._loaded * fetch.needed_bytes + fetch.fetched_bytes
        all_bytes = fetch.needed_bytes + fetch.to_fetch_bytes
        fraction = self._loaded if self._loaded >= 1 or not fetch.to_fetch_bytes else done_bytes / all_bytes
        self._fraction = max(self._fraction, min(fraction, 1.0))
        told, now = self._told, time.monotonic()
        progress = LoadProgress(self._fraction, fetch)
        is_step = told is None or progress.fraction >= told.fraction + _REPORT_STEP
        is_end = told is not None and progress.fraction >= 1.0 > told.fraction
        is_fetched = told is not None and progress.fetch != told.fetch and now >= self._told_at + _REPORT_S
        if is_step or is_end or is_fetched:
            self._told, self._told_at = progress, now
            self._tell(progress)


class Loading(Generic[_Result]):
    """Work on a thread of its own that reports its progress and can be cancelled."""

    def __init__(self, work: Callable[[Reporter], _Result]) -> None:
        """Starts at once; `work` raises what it fails with."""
        self._work = work
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._reporter = Reporter(self._events.put)
        self._result: _Result
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="loading", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Asks it to stop at the next report, or where it waits; nothing happens if it is done."""
        self._reporter.cancel()

    def events(self) -> Iterator[Event]:
        """What happens while it is made; ends when the work has, however it did. For one reader."""
        while (event := self._events.get()) is not None:
            yield event

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

    def _run(self) -> None:
        try:
            self._result = self._work(self._reporter)
        except Exception as error:
            self._error = error
        finally:
            self._events.put(None)
