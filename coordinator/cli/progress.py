# SPDX-License-Identifier: MIT
"""How loading is shown on stderr: a bar per worker on a terminal, with where its weights come from, how fast and for
how long still; else a line per worker. Or as JSON, an object a line.

Called with load events on the mesh's event loop, whichever thread that runs on; rich locks for itself.
"""

from __future__ import annotations

import json
import threading
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from coordinator.cli.console import say, stderr
from coordinator.events import LoadEvent, LoadPhase
from coordinator.weights.progress import Transfer, WeightOrigin, WeightShare
from protos.sizes import size

_TOTAL = "all workers"
_ELSEWHERE = (WeightOrigin.PEER, WeightOrigin.INTERNET, WeightOrigin.COORDINATOR)


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
            TextColumn("{task.fields[transfer]}", markup=False),
            TimeElapsedColumn(),
            console=stderr,
            transient=True,
            disable=not stderr.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._waiting: TaskID | None = None
        self._told = ""
        self._loaded: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, event: LoadEvent) -> None:
        """Shows one event."""
        with self._lock:
            if event.phase in (LoadPhase.LEFT_OUT, LoadPhase.DRAFTING):
                say(event.message)
            elif event.phase is LoadPhase.STARTING:
                say(self._starting or event.message)
            elif event.phase is LoadPhase.FETCHING:
                self._show_fetching(event)
            elif event.phase is LoadPhase.MEASURING:
                self._wait_for(event.message)
            elif event.phase is LoadPhase.LOADING and event.worker is not None:
                self._show(event.worker, event)
            elif event.phase is not LoadPhase.READY:
                self._wait_for(None)

    def __enter__(self) -> LoadProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Shows no bars any more; safe to repeat."""
        self._bars.stop()

    def _wait_for(self, what: str | None) -> None:
        """A bar without an end for what takes a moment, until something else goes on; measuring is seen once per model,
        since workers remember."""
        if not stderr.is_terminal:
            return
        if self._waiting is not None:
            self._bars.remove_task(self._waiting)
            self._waiting = None
        if what is not None:
            self._waiting = self._bars.add_task(what, total=None, transfer="")

    def _show_fetching(self, event: LoadEvent) -> None:
        """What comes to this machine."""
        if not event.transfer.to_fetch_bytes:
            self._wait_for(event.message)
        elif stderr.is_terminal:
            self._wait_for(None)
            self._bar(event.message, event.fraction, event.transfer)
        if event.message != self._told and event.transfer.to_fetch_bytes and not stderr.is_terminal:
            say(event.message)
        self._told = event.message

    def _show(self, worker: str, event: LoadEvent) -> None:
        self._wait_for(None)
        if stderr.is_terminal:
            self._bar(f"{worker} loads {_layers(event)}", event.fraction, event.transfer)
            if len(self._tasks) > 1 and event.total.to_fetch_bytes:
                self._bar(_TOTAL, event.total_fraction, event.total)
        elif event.fraction >= 1.0 and worker not in self._loaded:
            self._loaded.add(worker)
            say(f"{worker} has loaded {_layers(event)}{_origins(event.transfer)}")

    def _bar(self, what: str, fraction: float, transfer: Transfer) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=1.0, transfer="")
        self._bars.update(self._tasks[what], completed=fraction, transfer=_course(transfer))


class JsonProgress:
    """Takes load events and tells each as a line of JSON."""

    def __call__(self, event: LoadEvent) -> None:
        """Tells one event."""
        say(json.dumps(as_data(event)))

    def __enter__(self) -> JsonProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def end(self) -> None:
        """Nothing is shown that would have to go."""


class StepProgress:
    """One bar on a terminal for steps that follow each other, from the first on; a context manager around them. May be
    called from any thread."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=stderr,
            transient=True,
            disable=not stderr.is_terminal,
        )
        self._task: TaskID | None = None

    def __call__(self, what: str, fraction: float) -> None:
        """What is under way, and how much of it is done, 0 to 1."""
        if self._task is None:
            self._bars.start()
            self._task = self._bars.add_task(what, total=1.0)
        self._bars.update(self._task, description=what, completed=fraction)

    def __enter__(self) -> StepProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


def load_progress(starting: str | None = None, *, as_json: bool = False) -> LoadProgress | JsonProgress:
    """How to show it."""
    return JsonProgress() if as_json else LoadProgress(starting)


def as_data(event: LoadEvent) -> dict[str, object]:
    """An event as docs/cli.md tells it; without what does not belong to its phase."""
    data: dict[str, object] = {"phase": event.phase.value, "message": event.message}
    if event.worker is not None:
        data["worker"] = event.worker
    if event.phase is LoadPhase.LOADING and event.layers is not None:
        data |= {"layer_start": event.layers.start, "layer_end": event.layers.end}
        data |= {"fraction": event.fraction, **_transfer_as_data(event.transfer)}
        data["total"] = {"fraction": event.total_fraction, **_transfer_as_data(event.total)}
    if event.phase is LoadPhase.FETCHING and event.transfer.to_fetch_bytes:
        data |= {"fraction": event.fraction, **_transfer_as_data(event.transfer)}
    return data


def _transfer_as_data(transfer: Transfer) -> dict[str, object]:
    return {
        "to_fetch_bytes": transfer.to_fetch_bytes,
        "fetched_bytes": transfer.fetched_bytes,
        "bytes_per_s": transfer.bytes_per_s,
        "remaining_s": transfer.remaining_s,
        "sources": [
            {"source": share.origin.value, "worker": share.worker or None, "bytes": share.n_bytes}
            for share in transfer.shares
        ],
    }


def _course(transfer: Transfer) -> str:
    """ "1.2 of 3.4 GiB from the coordinator, 110 MiB/s, 0:20 left"; empty where nothing is fetched."""
    if not transfer.to_fetch_bytes:
        return ""
    sources = [_source(share) for share in transfer.shares if share.origin in _ELSEWHERE and share.n_bytes]
    text = f"{size(transfer.fetched_bytes)} of {size(transfer.to_fetch_bytes)}"
    text += f" from {', '.join(sources)}" if sources else ""
    if transfer.fetched_bytes >= transfer.to_fetch_bytes:
        return text
    text += f", {size(int(transfer.bytes_per_s))}/s" if transfer.bytes_per_s else ""
    remaining_s = transfer.remaining_s
    return text if remaining_s is None else f"{text}, {_clock(remaining_s)} left"


def _origins(transfer: Transfer) -> str:
    """ " (1.2 GiB from the coordinator, 310 MiB were there)" or " (they were still loaded)"; empty where everything was
    on its disk."""
    if any(share.origin is WeightOrigin.WARM for share in transfer.shares):
        return " (they were still loaded)"
    fetched = [share for share in transfer.shares if share.origin in _ELSEWHERE and share.n_bytes]
    if not fetched:
        return ""
    parts = [f"{size(share.n_bytes)} from {_source(share)}" for share in fetched]
    had_bytes = sum(share.n_bytes for share in transfer.shares if share.origin not in _ELSEWHERE)
    return f" ({', '.join([*parts, f'{size(had_bytes)} were there'] if had_bytes else parts)})"


def _source(share: WeightShare) -> str:
    return share.worker if share.origin is WeightOrigin.PEER else f"the {share.origin}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(min(359_999, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _layers(event: LoadEvent) -> str:
    return "its layers" if event.layers is None else layers_text(event.layers.start, event.layers.end)


def layers_text(start: int, end: int) -> str:
    """A half-open range in words; the last layer is named."""
    return f"layer {start}" if end == start + 1 else f"layers {start} to {end - 1}"
