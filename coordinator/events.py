# SPDX-License-Identifier: MIT
"""What can be told while a mesh opens, for progress displays, and of its lines while it serves. Values; made by
`opening`, `confirming`, `loading` and `weights.telling`, and by `recovery`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from coordinator.weights.progress import Transfer
from native import LayerRange
from protos.last_words import WorkerEnd

_LOG = logging.getLogger(__name__)

_NOTHING = Transfer()


class LoadPhase(str, Enum):
    """What is going on while a mesh opens, in this order."""

    FETCHING = "fetching"
    """What this machine needs of a model that is elsewhere."""
    DISCOVERING = "discovering"
    LEFT_OUT = "left out"
    STARTING = "starting workers"
    PLANNING = "planning"
    MEASURING = "measuring"
    DRAFTING = "loading the draft model"
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
        fraction: Of that worker's load, 0 to 1, with LOADING; of what is fetched to this machine, with FETCHING.
        transfer: The weights on their way to that worker, with LOADING; to this machine, with FETCHING.
        total_fraction: Of the loads of all workers of the line, with LOADING.
        total: The weights on their way to all of them, with LOADING.
    """

    phase: LoadPhase
    message: str
    worker: str | None = None
    layers: LayerRange | None = None
    fraction: float = 0.0
    transfer: Transfer = _NOTHING
    total_fraction: float = 0.0
    total: Transfer = _NOTHING


class LineChange(str, Enum):
    """What became of a line that serves, or of its model."""

    LOST = "lost"
    """It broke; its requests wait for another."""
    WAITING = "waiting"
    """Those who are left cannot hold the model, or not yet."""
    RESUMED = "resumed"
    """Another line carries on."""
    JOINED = "joined"
    """The same, and none broke: a worker was taken in."""
    GAVE_UP = "gave up"
    """Its requests failed; workers are still looked for."""
    ENDED = "worker ended"
    """A worker that died before is back, and tells why: told once, when it is met again."""
    DRAFT_LOST = "draft model lost"
    """It was on a worker; the line goes on without its guesses."""
    DRAFT_BACK = "draft model back"
    """It is loaded there again, and guesses."""
    LOADING = "loading"
    """A model is opened, of several that a server has, or again."""
    LOADED = "loaded"
    """It serves."""
    NOT_LOADED = "not loaded"
    """It could not be."""
    UNLOADED = "unloaded"
    """It made way, or was to go."""

    def __str__(self) -> str:
        return self.value

    @property
    def is_of_model(self) -> bool:
        """Whether its message names the model, which all lines of it are of."""
        return self in (LineChange.LOADING, LineChange.LOADED, LineChange.NOT_LOADED, LineChange.UNLOADED)


@dataclass(frozen=True, slots=True)
class LineEvent:
    """What became of a line, for a log.

    Attributes:
        message: A sentence for a person.
        worker: Who was lost, if one was; who joined; who had ended; who has, or had, the draft model.
        n_streams: Requests that go on, with RESUMED and JOINED.
        pause_s: For which there was no line, in seconds.
        end: When, how and while doing what, and the last of its log, with ENDED.
    """

    change: LineChange
    message: str
    worker: str | None = None
    n_streams: int = 0
    pause_s: float = 0.0
    end: WorkerEnd | None = None


OnLineEvent = Callable[[LineEvent], object]

OnProgress = Callable[[LoadEvent], object]
"""What it returns is not looked at but where a mesh is opened: False there calls everything off."""


def tell(on_event: OnLineEvent, event: LineEvent) -> None:
    """Logs it, and calls whoever wants to know; what goes wrong there is logged, too."""
    _LOG.info("%s", event.message)
    try:
        on_event(event)
    except Exception:
        _LOG.exception("whoever is told of the line's events failed")


def ignore(_event: LoadEvent | LineEvent) -> None:
    """For whom progress is of no interest."""
