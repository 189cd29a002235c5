# SPDX-License-Identifier: MIT
"""What the application serves: models, each with its mesh when it is loaded, and how far that is. Used on the server's
event loop only.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from enum import Enum
from http import HTTPStatus
from typing import TypeVar

from fastapi import Request

from coordinator.catalogue import MOST_LOADED, SWAP_TIMEOUT_S, Catalogue, OnModelEvent, OnModelProgress
from coordinator.errors import CaravanError, ClosedError
from coordinator.events import LineEvent, LoadEvent
from coordinator.http.answers import Answers
from coordinator.http.chronicle import Chronicle
from coordinator.http.collecting import while_connected
from coordinator.http.errors import RETRY_AFTER_S
from coordinator.http.rejection import RejectedError
from coordinator.http.schemas.sampling import RequestModel
from coordinator.http.worker_watch import WorkerWatch
from coordinator.mesh import AsyncMesh
from coordinator.resident import KnownModel, MeshOpener, Opener
from coordinator.shelf import Lease

_LEAST_S = 0.001
"""Of a request's time, when loading has taken all of it."""

Asked = TypeVar("Asked", bound=RequestModel)


class ServicePhase(str, Enum):
    """How far the service is, as `/health` tells it."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    STOPPING = "stopping"


class Served:
    """The model that a request is for, loaded."""

    def __init__(self, service: Service, lease: Lease, limit_s: float | None) -> None:
        self._service = service
        self._lease = lease
        self._limit_s = limit_s
        self.name = lease.name

    def mesh(self) -> AsyncMesh:
        """Its mesh, ready to generate.

        Raises:
            RejectedError: 503, stopping.
            CaravanError: why the line is gone.
        """
        self._service.check_serving()
        return _standing(self._lease.mesh)

    def within_time(self, asked: Asked) -> Asked:
        """The request with what is left of its time: part of that may have gone to loading."""
        if self._limit_s is None or not self._lease.waited_s:
            return asked
        return asked.model_copy(update={"timeout": max(_LEAST_S, self._limit_s - self._lease.waited_s)})


class Service:
    """The models of a server, from the first moment of loading to the last answer.

    Args:
        models: as `Catalogue` has them.
        most_loaded: as there.
        swap_timeout_s: as there.
        tells_thoughts_apart: whether thoughts are no part of the text, where a request does not say.
        on_progress: told as well how loading goes.
        on_event: told as well what becomes of models and lines.
    """

    def __init__(
        self,
        models: Sequence[KnownModel],
        opener: Opener | None = None,
        *,
        most_loaded: int = MOST_LOADED,
        swap_timeout_s: float = SWAP_TIMEOUT_S,
        tells_thoughts_apart: bool = True,
        on_progress: OnModelProgress = lambda _name, _event: None,
        on_event: OnModelEvent = lambda _name, _event: None,
    ) -> None:
        self.tells_thoughts_apart = tells_thoughts_apart
        self.catalogue = Catalogue(
            models,
            opener or MeshOpener(),
            most_loaded=most_loaded,
            swap_timeout_s=swap_timeout_s,
            on_progress=self._note_progress,
            on_event=self.note_event,
        )
        self._models = {model.name: model for model in models}
        self.created = int(time.time())
        self._on_progress = on_progress
        self._on_event = on_event
        self.answers: Answers | None = None
        self._is_starting = True
        self._is_stopping = False
        self.chronicle = Chronicle(self._models)
        self.answer_counts: Counter[tuple[str, str]] = Counter()
        self.workers = {model.name: WorkerWatch() for model in models}

    # ---- how far it is ----

    @property
    def phase(self) -> ServicePhase:
        if self._is_stopping:
            return ServicePhase.STOPPING
        if self._is_starting:
            return ServicePhase.LOADING
        return ServicePhase.READY if self.error is None else ServicePhase.FAILED

    @property
    def error(self) -> CaravanError | None:
        """Why nothing can be generated: the models are loaded and their lines are gone for now; None while one is
        not."""
        errors = [mesh.error for mesh in self.meshes()]
        return errors[0] if len(errors) == len(self._models) and all(errors) else None

    @property
    def n_requests(self) -> int:
        """Generations that run or wait."""
        return sum(mesh.n_running + mesh.n_waiting for mesh in self.meshes())

    async def start(self, name: str) -> AsyncMesh:
        """Loads the first model; until then requests are turned away.

        Raises:
            CaravanError: why it cannot be loaded.
        """
        with self.catalogue.lease(name) as lease:
            return await lease.arrived()

    def begin(self, answers: Answers | None = None) -> None:
        """From now on requests are answered.

        Args:
            answers: keep what is said, if somebody does.
        """
        self.answers = answers
        self._is_starting = False

    def stop(self) -> None:
        """New requests are turned away from now on, and those that wait for a model; those that run go on."""
        self._is_stopping = True
        self.catalogue.stop()

    def check_serving(self) -> None:
        """Raises RejectedError, 503, while it starts or stops."""
        if self._is_stopping:
            raise RejectedError(
                HTTPStatus.SERVICE_UNAVAILABLE, "the server is stopping: ask another one", code="stopping"
            )
        if self._is_starting:
            raise RejectedError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the model is still loading: try again when /health says ready",
                code="loading",
                retry_after_s=RETRY_AFTER_S,
            )

    # ---- what a request is for ----

    @property
    def name(self) -> str:
        """Of the model that is meant where none is named."""
        return self.catalogue.default

    def name_of(self, asked: str | None) -> str:
        """The model that is meant. One model is meant by any name.

        Raises:
            RejectedError: 404, there is none of that name.
        """
        if asked is None or not asked or len(self._models) == 1:
            return self.catalogue.default
        return self.known(asked)

    def known(self, asked: str) -> str:
        """The same name. Raises RejectedError, 404, if there is none."""
        if asked not in self._models:
            names = ", ".join(repr(name) for name in self._models)
            there = f"only {names}" if len(self._models) == 1 else f"but {names}"
            message = f"there is no model {asked[:200]!r} here, {there}"
            raise RejectedError(HTTPStatus.NOT_FOUND, message, param="model", code="model_not_found")
        return asked

    @contextlib.asynccontextmanager
    async def served(self, request: Request, asked: RequestModel) -> AsyncIterator[Served]:
        """The model that a request names, loaded if it is not, and not unloaded while this lasts.

        Args:
            asked: its body, with `model`, and perhaps `timeout`.

        Raises:
            RejectedError: 404, there is none; 503, starting or stopping.
            CaravanError: why it is not loaded.
            ClientGoneError: nobody waits for it any more.
        """
        self.check_serving()
        name = self.name_of(getattr(asked, "model", None))
        limits = (getattr(asked, "timeout", None), self._models[name].options.get("request_timeout"))
        limit_s = min((limit for limit in limits if limit is not None), default=None)
        with self.catalogue.lease(name) as lease:
            if not lease.has_arrived:
                try:
                    await while_connected(request, lease.arrived(limit_s))
                except ClosedError:
                    self.check_serving()
                    raise
            yield Served(self, lease, limit_s)

    def mesh(self, asked: str | None = None) -> AsyncMesh:
        """The mesh of a model, to be looked at: it is not loaded for that.

        Raises:
            RejectedError: 404, there is none of that name; 503, starting or stopping, or it is not loaded.
            CaravanError: why the line is gone.
        """
        self.check_serving()
        name = self.name_of(asked)
        mesh = self.catalogue.mesh(name)
        if mesh is None:
            message = f"{name} is not loaded: POST /models/load, or any request to it, loads it"
            raise RejectedError(HTTPStatus.SERVICE_UNAVAILABLE, message, param="model", code="not_loaded")
        return _standing(mesh)

    def meshes(self) -> list[AsyncMesh]:
        """Of all models that are loaded."""
        return [mesh for name in self.catalogue.names if (mesh := self.catalogue.mesh(name)) is not None]

    def note_event(self, name: str, event: LineEvent) -> None:
        """Remembers what became of a line or a model; that the server starts is none of it."""
        if not self._is_starting:
            self.chronicle.note_event(name, event)
            self._on_event(name, event)

    def _note_progress(self, name: str, event: LoadEvent) -> None:
        self.chronicle.note_progress(name, event)
        self._on_progress(name, event)


def _standing(mesh: AsyncMesh) -> AsyncMesh:
    if mesh.error is not None:
        raise mesh.error
    return mesh
