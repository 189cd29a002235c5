# SPDX-License-Identifier: MIT
"""A model of several that is loaded now: an open mesh, with what its catalogue has to know of it. On the event loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from coordinator.claims import Claims
from coordinator.errors import CaravanError
from coordinator.event_feed import EventFeed
from coordinator.events import OnLineEvent, OnProgress, ignore
from coordinator.mesh import AsyncMesh, OpenOptions, close_mesh
from coordinator.opening import OpenMesh, open_mesh, plan_mesh
from coordinator.options import MeshOptions

_LISTEN_S = 0.5
"""By mDNS, when only a plan is wanted: workers answer a question within a fifth of a second."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that can be loaded.

    Attributes:
        name: By which clients know it.
        model: As `Mesh.open` takes it.
        options: Those of `Mesh.open`.
    """

    name: str
    model: str | Path
    options: OpenOptions = field(default_factory=lambda: OpenOptions())


class Resident:
    """An open mesh."""

    def __init__(self, opened: OpenMesh, feed: EventFeed) -> None:
        self._opened = opened
        self._feed = feed
        self.mesh = AsyncMesh(opened, feed)

    @property
    def is_busy(self) -> bool:
        """Whether requests run or wait there."""
        return self.mesh.n_running + self.mesh.n_waiting > 0

    @property
    def workers(self) -> Mapping[str, str]:
        """As `OpenMesh` has them."""
        return self._opened.workers

    def end_requests(self, error: CaravanError) -> None:
        """Whatever runs ends with this."""
        self._opened.end_requests(error)

    async def close(self, *, may_stay_warm: bool) -> None:
        """As `close_mesh`."""
        await close_mesh(self._opened, self._feed, may_stay_warm=may_stay_warm)


class Opener(Protocol):
    """What opens a model."""

    async def open(self, model: KnownModel, on_progress: OnProgress, on_event: OnLineEvent) -> Resident:
        """Over workers that no other model has.

        Raises:
            CaravanError: As `open_mesh`.
        """

    async def workers_for(self, model: KnownModel, lent: Mapping[str, str]) -> frozenset[str]:
        """The names of the workers that it would be laid over if these were let go of too; nothing is loaded.

        Raises:
            CaravanError: As `plan_mesh`.
        """


class MeshOpener:
    """The real one: each model is a mesh, and no two of them have a worker."""

    def __init__(self) -> None:
        self._claims = Claims()

    async def open(self, model: KnownModel, on_progress: OnProgress, on_event: OnLineEvent) -> Resident:
        """As `Opener` has it."""
        options = MeshOptions(model.model, **model.options)
        feed = EventFeed(on_event)
        return Resident(await open_mesh(options, on_progress, feed, self._claims), feed)

    async def workers_for(self, model: KnownModel, lent: Mapping[str, str]) -> frozenset[str]:
        """As `Opener` has it."""
        listens_s = min(_LISTEN_S, model.options.get("discovery_timeout_s", _LISTEN_S))
        own = OpenOptions(discovery_timeout_s=listens_s, local_workers=0, predicted=False)
        options = MeshOptions(model.model, **(model.options | own))
        plans = await plan_mesh(options, ignore, self._claims, lent)
        return frozenset(name for plan in plans for name in plan.ranges)
