# SPDX-License-Identifier: MIT
"""How loading is shown on stderr: a bar per worker on a terminal, else a line per worker.

Called with load events on the mesh's event loop, whichever thread that runs on; rich locks for itself.
"""

from __future__ import annotations

import threading
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from coordinator.cli.console import say, stderr
from coordinator.events import LoadEvent, LoadPhase


class LoadProgress:
    """Takes load events; a context manager around the loading.

    Args:
        starting: what to say when workers are started here, instead of the event's own message.
    """

    def __init__(self, starting: str | None = None) -> None:
        self._starting = starting
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=stderr,
            transient=True,
            disable=not stderr.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._measuring: TaskID | None = None
        self._loaded: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, event: LoadEvent) -> None:
        """Shows one event."""
        if event.phase is LoadPhase.LEFT_OUT:
            say(event.message)
        elif event.phase is LoadPhase.STARTING:
            say(self._starting or event.message)
        elif event.phase is LoadPhase.MEASURING:
            self._show_measuring(event)
        elif event.phase is LoadPhase.LOADING and event.worker is not None:
            with self._lock:
                self._show(event.worker, event)

    def __enter__(self) -> LoadProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def _show_measuring(self, event: LoadEvent) -> None:
        """Until loading begins; workers remember, so that it is seen once per model."""
        if stderr.is_terminal:
            self._measuring = self._bars.add_task(event.message, total=None)

    def _show(self, worker: str, event: LoadEvent) -> None:
        what = f"{worker} loads {_layers(event)}"
        if stderr.is_terminal:
            if self._measuring is not None:
                self._bars.remove_task(self._measuring)
                self._measuring = None
            if worker not in self._tasks:
                self._tasks[worker] = self._bars.add_task(what, total=1.0)
            self._bars.update(self._tasks[worker], completed=event.fraction)
        elif event.fraction >= 1.0 and worker not in self._loaded:
            self._loaded.add(worker)
            say(f"{worker} has loaded {_layers(event)}")


def _layers(event: LoadEvent) -> str:
    return "its layers" if event.layers is None else layers_text(event.layers.start, event.layers.end)


def layers_text(start: int, end: int) -> str:
    """A half-open range in words; the last layer is named."""
    return f"layer {start}" if end == start + 1 else f"layers {start} to {end - 1}"
