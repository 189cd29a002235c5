# SPDX-License-Identifier: MIT
"""What can be told while a mesh opens, for progress displays. Values; made by `opening`, `confirming` and `loading`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from native import LayerRange


class LoadPhase(str, Enum):
    """What is going on while a mesh opens, in this order."""

    DISCOVERING = "discovering"
    LEFT_OUT = "left out"
    STARTING = "starting workers"
    PLANNING = "planning"
    MEASURING = "measuring"
    LOADING = "loading"
    READY = "ready"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class LoadEvent:
    """One step of opening a mesh, for a progress display.

    Attributes:
        message: A sentence for a person.
        worker: Whom it concerns, with LEFT_OUT and LOADING.
        layers: That worker's layer range, with LOADING.
        fraction: Of that worker's load, 0 to 1, with LOADING.
    """

    phase: LoadPhase
    message: str
    worker: str | None = None
    layers: LayerRange | None = None
    fraction: float = 0.0


OnProgress = Callable[[LoadEvent], None]
