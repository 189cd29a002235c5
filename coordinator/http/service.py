# SPDX-License-Identifier: MIT
"""What the application serves: the mesh, and how far it is. Used on the server's event loop only."""

from __future__ import annotations

import time
from collections import deque
from enum import Enum
from http import HTTPStatus

from coordinator.errors import CaravanError
from coordinator.events import LineEvent, LoadEvent, LoadPhase
from coordinator.http.answers import Answers
from coordinator.http.errors import RETRY_AFTER_S, error_info
from coordinator.http.rejection import RejectedError
from coordinator.http.schemas.line import EventInfo
from coordinator.http.schemas.status import Health, LoadInfo, ModelInfo, StageInfo
from coordinator.http.worker_watch import WorkerWatch
from coordinator.mesh import AsyncMesh

_REMEMBERED_EVENTS = 50
"""For `/line`: more than go on a screen."""


class ServicePhase(str, Enum):
    """How far the service is, as `/health` tells it."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    STOPPING = "stopping"


class Service:
    """One model over one mesh, from the first moment of loading to the last answer.

    Args:
        name: by which clients know the model.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._created = int(time.time())
        self._mesh: AsyncMesh | None = None
        self.answers: Answers | None = None
        self._error: Exception | None = None
        self._stopping = False
        self._loads: dict[str, LoadInfo] = {}
        self._doing = ""
        self.events: deque[EventInfo] = deque(maxlen=_REMEMBERED_EVENTS)
        self.workers = WorkerWatch()

    @property
    def phase(self) -> ServicePhase:
        if self._stopping:
            return ServicePhase.STOPPING
        if self.error is not None:
            return ServicePhase.FAILED
        return ServicePhase.LOADING if self._mesh is None else ServicePhase.READY

    @property
    def error(self) -> Exception | None:
        """Why nothing can be generated any more; None while that is not so."""
        return self._error or (self._mesh.error if self._mesh is not None else None)

    @property
    def n_requests(self) -> int:
        """Generations that run or wait."""
        return 0 if self._mesh is None else self._mesh.n_running + self._mesh.n_waiting

    def note_progress(self, event: LoadEvent) -> None:
        """Follows the loading, for `/health`."""
        self._doing = event.message
        if event.phase is LoadPhase.LOADING and event.worker is not None and event.layers is not None:
            self._loads[event.worker] = LoadInfo(
                worker=event.worker,
                layer_start=event.layers.start,
                layer_end=event.layers.end,
                fraction=event.fraction,
            )

    def note_event(self, event: LineEvent) -> None:
        """Remembers what became of a line, for `/line`."""
        told = EventInfo(
            at_s=time.time(),
            change=event.change,
            message=event.message,
            worker=event.worker,
            n_streams=event.n_streams,
            pause_s=event.pause_s,
        )
        self.events.append(told)

    def begin(self, mesh: AsyncMesh, answers: Answers | None = None) -> None:
        """From now on `mesh` answers requests; it stays the caller's to close, as do `answers`, which keep what it says
        if somebody does."""
        self.answers = answers
        self._mesh = mesh

    def fail(self, error: Exception) -> None:
        """Loading failed; requests are told why."""
        self._error = error

    def stop(self) -> None:
        """New requests are turned away from now on; those that run go on."""
        self._stopping = True

    def mesh(self) -> AsyncMesh:
        """The mesh, ready to generate.

        Raises:
            RejectedError: 503, loading or stopping.
            CaravanError: why the line is gone.
        """
        if self._stopping:
            raise RejectedError(
                HTTPStatus.SERVICE_UNAVAILABLE, "the server is stopping: ask another one", code="stopping"
            )
        if isinstance(self.error, CaravanError):
            raise self.error
        if self._mesh is None or self.error is not None:
            raise RejectedError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the model is still loading: try again when /health says ready",
                code="loading",
                retry_after_s=RETRY_AFTER_S,
            )
        return self._mesh

    def model_info(self) -> ModelInfo:
        """The model and its line; no stages while loading."""
        return ModelInfo(id=self.name, created=self._created, stages=self._stages())

    def health(self) -> Health:
        """How far it is, with what there is to say of that."""
        phase, mesh = self.phase, self._mesh
        health = Health(status=phase.value, model=self.name)
        if phase is ServicePhase.LOADING:
            loads = list(self._loads.values())
            health.fraction = sum(load.fraction for load in loads) / max(1, len(loads))
            health.doing, health.loads = self._doing, loads
        if phase is ServicePhase.READY and mesh is not None:
            health.stages = self._stages()
            health.n_running, health.n_waiting, health.n_paused = mesh.n_running, mesh.n_waiting, mesh.n_paused
        if self.error is not None:
            health.error = error_info(self.error)
        return health

    def _stages(self) -> list[StageInfo]:
        if self._mesh is None:
            return []
        return [
            StageInfo(
                worker=stage.worker,
                address=stage.address,
                layer_start=stage.layers.start,
                layer_end=stage.layers.end,
            )
            for plan in self._mesh.plans
            for stage in plan.stages
        ]
