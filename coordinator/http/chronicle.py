# SPDX-License-Identifier: MIT
"""What was told of a server's models: how far loads are, and what became of their lines. On the server's event loop."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from coordinator.events import LineChange, LineEvent, LoadEvent, LoadPhase
from coordinator.http.schemas.line import EventInfo
from coordinator.http.schemas.status import LoadInfo

_REMEMBERED_EVENTS = 50
"""For `/line`: more than go on a screen."""


@dataclass(slots=True)
class Told:
    """Of one model.

    Attributes:
        doing: What its last load did last.
        loads: How far its workers were, by name.
        pause_s: For which there was no line, of all that carried on.
    """

    doing: str = ""
    loads: dict[str, LoadInfo] = field(default_factory=dict)
    changes: Counter[LineChange] = field(default_factory=Counter)
    pause_s: float = 0.0

    @property
    def fraction(self) -> float:
        """Of that load."""
        return sum(load.fraction for load in self.loads.values()) / max(1, len(self.loads))


class Chronicle:
    """Of all models of a server, by name."""

    def __init__(self, names: Iterable[str]) -> None:
        self._told = {name: Told() for name in names}
        self.events: deque[EventInfo] = deque(maxlen=_REMEMBERED_EVENTS)

    def of(self, name: str) -> Told:
        """What was told of it."""
        return self._told[name]

    def note_progress(self, name: str, event: LoadEvent) -> None:
        """A load goes on."""
        told = self._told[name]
        told.doing = event.message
        if event.phase is LoadPhase.LOADING and event.worker is not None and event.layers is not None:
            told.loads[event.worker] = LoadInfo(
                worker=event.worker,
                layer_start=event.layers.start,
                layer_end=event.layers.end,
                fraction=event.fraction,
            )

    def note_event(self, name: str, event: LineEvent) -> None:
        """Something became of a line, or of the model."""
        told = self._told[name]
        self.events.append(
            EventInfo(
                at_s=time.time(),
                model=name,
                change=event.change,
                message=event.message,
                worker=event.worker,
                n_streams=event.n_streams,
                pause_s=event.pause_s,
            )
        )
        told.changes[event.change] += 1
        told.pause_s += event.pause_s
        if event.change is LineChange.LOADING:
            told.doing, told.loads = "", {}
