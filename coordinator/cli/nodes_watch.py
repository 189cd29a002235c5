# SPDX-License-Identifier: MIT
"""`caravan nodes --watch`: the workers on the network as they come, go, and take layers, live on a terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from coordinator.cli.progress import layers_text
from coordinator.discovery import Discovery
from coordinator.errors import CaravanError
from coordinator.workers import FoundWorker

_CHANGES = 12
"""Of the last changes; more do not fit below the table of a low terminal."""


class Roster:
    """Who is there, and what changed since it was looked for the first time. Pure."""

    def __init__(self) -> None:
        self._before: Mapping[str, FoundWorker] | None = None
        self.changes: deque[str] = deque(maxlen=_CHANGES)

    def note(self, found: Sequence[FoundWorker], clock: str) -> None:
        """These are there now; `clock` stands before what changed by that."""
        now = {worker.name: worker for worker in found}
        if self._before is not None:
            self.changes += [f"{clock}  {change}" for change in _changes(self._before, now)]
        self._before = now


def _changes(before: Mapping[str, FoundWorker], now: Mapping[str, FoundWorker]) -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        earlier, later = before.get(name), now.get(name)
        if later is None:
            yield f"{name} is gone"
        elif earlier is None:
            yield f"{name} is there, at {later.address}"
        elif earlier.instance_id != later.instance_id:
            yield f"{name} was started anew"
        elif holds(earlier) != holds(later):
            yield f"{name} holds {holds(later) or 'nothing any more'}"


def holds(worker: FoundWorker) -> str:
    """The layers that are loaded there; empty: none."""
    return ", ".join(
        layers_text(stage.layers.start, stage.layers.end) + (" (warm)" if stage.is_warm else "")
        for stage in worker.loaded
    )


def watch(look: Callable[[], Discovery], drawn: Callable[[Discovery], str], least_s: float) -> None:
    """Looks again and again, on a screen of its own that the terminal forgets when this ends, however it ends.

    Args:
        drawn: What there is to say of a look.
        least_s: From one look to the next, at least.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    roster = Roster()
    text = "looking for workers"
    with Live(Text(text), console=console, screen=True, auto_refresh=False) as live:
        while True:
            started_s, trouble = time.monotonic(), []
            try:
                seen = look()
                roster.note(seen.found, time.strftime("%H:%M:%S"))
                text = drawn(seen)
            except CaravanError as error:
                trouble = [Text(error.message, style="bold red")]
            changes = [Text(""), *map(Text, roster.changes)] if roster.changes else []
            live.update(Group(*trouble, *_rows(text), *changes), refresh=True)
            time.sleep(max(0.0, started_s + least_s - time.monotonic()))


def _rows(text: str) -> list[Text]:
    """Rows of a table are cut where the screen ends: wrapped, they would be none."""
    return [Text(row, no_wrap=True, overflow="ellipsis") for row in text.splitlines()]
