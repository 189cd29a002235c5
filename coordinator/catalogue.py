# SPDX-License-Identifier: MIT
"""Several models over the same workers, each loaded when it is asked for: who is loaded, who waits for what, and who
makes way. On one event loop; `http.service` has one, and it can be used without.

Orders (a model is wanted, or is to go) are carried out one after another, as they came. A model is opened over workers
that are idle; where that cannot be, or as many are loaded as may be, those make way that were used longest ago, if a
plan says that this will do. Who makes way takes no new requests from then on: they wait for its next turn, behind the
model that it makes way for. Whoever waits for a model has it as soon as it is loaded, before it can make way again: so
everybody comes to a turn, however many ask for something else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from coordinator.errors import (
    CaravanError,
    ClosedError,
    NoWorkersError,
    OverloadedError,
    PlanError,
    UnloadedError,
)
from coordinator.events import LineChange, LineEvent, LoadEvent
from coordinator.mesh import AsyncMesh
from coordinator.resident import KnownModel, Opener, Resident
from coordinator.shelf import Held, Lease, Shelf, in_the_way, least_missed

_LOG = logging.getLogger(__name__)

MOST_LOADED = 4
"""Models at once, unless said otherwise: llama-server's own. A model takes only workers that are idle, so those that
are loaded lose nothing by it, and to swap two at each request that would have had room costs far more."""

SWAP_TIMEOUT_S = 600.0
"""For the requests of a model that makes way: a long answer of a slow line."""

_LOOK_EVERY_S = 0.05
"""Whether requests still run."""

_LACK = (NoWorkersError, PlanError)
"""What may be otherwise when there are more workers."""


class ModelPhase(str, Enum):
    """As llama-server tells it."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model at one moment.

    Attributes:
        is_leaving: It makes way, or is to go: new requests wait.
        error: Why it could not be loaded the last time, or serves no more.
        n_waiting: Requests that wait for it to be loaded.
    """

    phase: ModelPhase
    is_leaving: bool = False
    error: Exception | None = None
    n_waiting: int = 0


@dataclass(frozen=True, slots=True)
class _Order:
    """A model is wanted; or, where it `leaves`, is to go."""

    shelf: Shelf
    leaves: bool = False


OnModelEvent = Callable[[str, LineEvent], object]
OnModelProgress = Callable[[str, LoadEvent], object]
"""Told with the model's name."""


class Catalogue:
    """The models of one server.

    Args:
        models: At least one; names are different ones.
        most_loaded: Models at once; 0: as many as find room.
        swap_timeout_s: How long the requests of a model may go on that makes way; then they end with UnloadedError.
        on_progress: Told how loading goes.
        on_event: Told what becomes of models, and of their lines.
    """

    def __init__(
        self,
        models: Sequence[KnownModel],
        opener: Opener,
        *,
        most_loaded: int = MOST_LOADED,
        swap_timeout_s: float = SWAP_TIMEOUT_S,
        on_progress: OnModelProgress = lambda _name, _event: None,
        on_event: OnModelEvent = lambda _name, _event: None,
    ) -> None:
        self._shelves = {model.name: Shelf(model) for model in models}
        self._opener = opener
        self._most_loaded = most_loaded
        self._swap_timeout_s = swap_timeout_s
        self._on_progress = on_progress
        self._on_event = on_event
        self._orders: deque[_Order] = deque()
        self._working: asyncio.Task[None] | None = None
        self._at_hand: asyncio.Task[None] | None = None
        self._is_making_room = False
        self._closings: set[asyncio.Task[None]] = set()
        self._is_stopped = False

    # ---- what there is ----

    @property
    def names(self) -> list[str]:
        """Of all models, loaded or not."""
        return list(self._shelves)

    @property
    def default(self) -> str:
        """The name of the one that is loaded and was used last; else of the first."""
        loaded = [(shelf.held.used_s, name) for name, shelf in self._shelves.items() if shelf.held is not None]
        return max(loaded)[1] if loaded else self.names[0]

    def mesh(self, name: str) -> AsyncMesh | None:
        """Its mesh, to be looked at; None: it is not loaded. Raises KeyError."""
        held = self._shelves[name].held
        return None if held is None else held.resident.mesh

    def status(self, name: str) -> ModelStatus:
        """How it is. Raises KeyError."""
        shelf = self._shelves[name]
        n_waiting = len(shelf.waiting)
        if shelf.held is not None:
            return ModelStatus(ModelPhase.LOADED, shelf.held.is_leaving, shelf.held.resident.mesh.error, n_waiting)
        phase = ModelPhase.LOADING if self._ordered(shelf, leaves=False) else ModelPhase.UNLOADED
        return ModelStatus(phase, error=shelf.error, n_waiting=n_waiting)

    # ---- what is wanted ----

    def lease(self, name: str) -> Lease:
        """A hold on a model, which is loaded if it is not; to be released, arrived or not. On a running loop.

        Raises:
            KeyError: There is none of that name.
            OverloadedError: As many wait for it as may.
            ClosedError: The catalogue is.
        """
        shelf = self._open_shelf(name)
        lease = Lease(shelf, self._note_given_up)
        if shelf.held is not None and shelf.is_there:
            lease.admit(shelf.held)
            return lease
        if len(shelf.waiting) >= shelf.most_waiting:
            raise OverloadedError(len(shelf.waiting))
        shelf.waiting.append(lease)
        self._order(shelf)
        return lease

    def load(self, name: str) -> None:
        """It is wanted, though nobody waits for it. Raises KeyError, ClosedError."""
        shelf = self._open_shelf(name)
        if not shelf.is_there:
            shelf.is_wanted = True
            self._order(shelf)

    def unload(self, name: str) -> None:
        """It is to go, its memory too, when its requests have ended or their time is over; a load of it is called off.
        Raises KeyError, ClosedError."""
        shelf = self._open_shelf(name)
        shelf.refuse_all(UnloadedError(f"{name} is not loaded after all, because it was told to unload: ask again"))
        self._call_off(shelf)
        if shelf.held is not None:
            self._order(shelf, leaves=True)

    def stop(self) -> None:
        """Nothing is loaded any more, and whoever waits for that is told so; what is loaded goes on."""
        self._is_stopped = True
        for task in (self._working, self._at_hand):
            if task is not None:
                task.cancel()
        for shelf in self._shelves.values():
            shelf.refuse_all(_stopped())

    async def close(self) -> None:
        """Closes all models. Safe to repeat."""
        self.stop()
        tasks = [task for task in (self._working, self._at_hand, *self._closings) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        held = [shelf.held for shelf in self._shelves.values() if shelf.held is not None]
        for shelf in self._shelves.values():
            shelf.held = None
        await asyncio.gather(*(each.resident.close(may_stay_warm=True) for each in held))

    # ---- orders ----

    def _open_shelf(self, name: str) -> Shelf:
        shelf = self._shelves[name]
        if self._is_stopped:
            raise _stopped()
        return shelf

    def _ordered(self, shelf: Shelf, *, leaves: bool) -> _Order | None:
        """The order of that kind, if there is one."""
        return next((order for order in self._orders if order.shelf is shelf and order.leaves is leaves), None)

    def _order(self, shelf: Shelf, *, leaves: bool = False) -> None:
        if self._ordered(shelf, leaves=leaves) is not None:
            return
        self._orders.append(_Order(shelf, leaves))
        if self._working is None or self._working.done():
            self._working = asyncio.get_running_loop().create_task(self._work())

    def _note_given_up(self, shelf: Shelf) -> None:
        """Somebody waits no more. What is done for nobody is called off, unless it is loaded already."""
        is_at_hand = bool(self._orders) and self._orders[0] is self._ordered(shelf, leaves=False)
        if not shelf.is_asked_for and (self._is_making_room or not is_at_hand):
            self._call_off(shelf)

    def _call_off(self, shelf: Shelf) -> None:
        """It need not be loaded."""
        order = self._ordered(shelf, leaves=False)
        if order is None:
            return
        if order is not self._orders[0]:
            self._orders.remove(order)
        elif self._at_hand is not None:
            self._at_hand.cancel()

    async def _work(self) -> None:
        """Carries out orders until there are none."""
        while self._orders:
            order = self._orders[0]
            self._at_hand = asyncio.get_running_loop().create_task(self._carry_out(order))
            await asyncio.wait([self._at_hand])
            self._orders.popleft()
            if not self._at_hand.cancelled() and self._at_hand.exception() is not None:
                _LOG.error("an order failed for a reason nobody foresaw", exc_info=self._at_hand.exception())
            if order.shelf.is_asked_for:  # since it was called off
                self._order(order.shelf)

    async def _carry_out(self, order: _Order) -> None:
        if self._closings:  # what it was for was called off
            await asyncio.wait(self._closings)
        if order.leaves:
            await self._leave(order.shelf, "as it was told to", may_stay_warm=False)
        else:
            await self._load(order.shelf)

    # ---- loading ----

    async def _load(self, shelf: Shelf) -> None:
        """It is there, or whoever waits knows why not."""
        if shelf.held is None:
            name, began_s = shelf.model.name, time.monotonic()
            self._tell(shelf, LineChange.LOADING, f"loading {name}")
            try:
                shelf.error = None
                shelf.held = Held(await self._opened(shelf))
            except asyncio.CancelledError:
                self._tell(shelf, LineChange.NOT_LOADED, f"{name} was not loaded: it was called off")
                raise
            except Exception as error:
                self._note_failed(shelf, error)
                return
            workers, took_s = ", ".join(shelf.held.resident.workers), time.monotonic() - began_s
            self._tell(shelf, LineChange.LOADED, f"{name} was loaded on {workers}, in {took_s:.1f} s")
        shelf.admit_all()

    def _note_failed(self, shelf: Shelf, error: Exception) -> None:
        shelf.error = error
        shelf.refuse_all(error)
        why = str(error)
        if not isinstance(error, CaravanError):
            _LOG.error("%s could not be loaded for a reason nobody foresaw", shelf.model.name, exc_info=error)
            why = "something went wrong inside the coordinator; its log says more"
        self._tell(shelf, LineChange.NOT_LOADED, f"{shelf.model.name} could not be loaded: {why}")

    async def _opened(self, shelf: Shelf) -> Resident:
        """Over idle workers if that can be; else somebody makes way first."""
        n_loaded = len(self._loaded)
        if not self._most_loaded or n_loaded < self._most_loaded:
            try:
                return await self._open(shelf.model)
            except _LACK:
                if not n_loaded:
                    raise
        self._is_making_room = True
        try:
            if not shelf.is_asked_for:
                raise asyncio.CancelledError  # as if they had given up a moment later
            leaving = await self._who_makes_way(shelf.model)
            await asyncio.gather(*(self._leave(each, f"to make room for {shelf.model.name}") for each in leaving))
        finally:
            self._is_making_room = False
        return await self._open(shelf.model)

    async def _open(self, model: KnownModel) -> Resident:
        name = model.name
        return await self._opener.open(
            model, lambda event: self._on_progress(name, event), lambda event: self._on_event(name, event)
        )

    # ---- making room ----

    @property
    def _loaded(self) -> list[Shelf]:
        return [shelf for shelf in self._shelves.values() if shelf.held is not None]

    async def _who_makes_way(self, model: KnownModel) -> list[Shelf]:
        """As few as a plan needs.

        Raises:
            CaravanError: There is no plan, whoever makes way.
        """
        candidates = least_missed(self._loaded)
        n_least = max(1, len(candidates) + 1 - (self._most_loaded or len(candidates)))
        for n in range(n_least, len(candidates) + 1):
            chosen = candidates[:n]
            lent = {name: at for shelf in chosen if shelf.held for name, at in shelf.held.resident.workers.items()}
            try:
                return in_the_way(chosen, await self._opener.workers_for(model, lent), n_least)
            except _LACK:
                if n == len(candidates):
                    raise
        return []

    async def _leave(self, shelf: Shelf, why: str, *, may_stay_warm: bool = True) -> None:
        """Returns when it is gone. If this is cancelled while requests still run, it stays."""
        held = shelf.held
        if held is None:
            return
        held.is_leaving = True
        try:
            if not await self._has_finished(held):
                told = f"{shelf.model.name} was unloaded {why}, and waits {self._swap_timeout_s:g} s for its requests"
                held.resident.end_requests(UnloadedError(f"{told}, which were over: ask again"))
        except asyncio.CancelledError:
            held.is_leaving = False
            shelf.admit_all()
            raise
        closing = asyncio.get_running_loop().create_task(self._close(shelf, held, why, may_stay_warm=may_stay_warm))
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)
        await asyncio.shield(closing)

    async def _has_finished(self, held: Held) -> bool:
        """Whether nothing of it runs any more, in time."""
        until_s = time.monotonic() + self._swap_timeout_s
        while held.is_busy:
            if time.monotonic() >= until_s:
                return False
            await asyncio.sleep(_LOOK_EVERY_S)
        return True

    async def _close(self, shelf: Shelf, held: Held, why: str, *, may_stay_warm: bool) -> None:
        try:
            await held.resident.close(may_stay_warm=may_stay_warm)
        finally:
            shelf.held = None
        self._tell(shelf, LineChange.UNLOADED, f"{shelf.model.name} was unloaded {why}")

    def _tell(self, shelf: Shelf, change: LineChange, message: str) -> None:
        self._on_event(shelf.model.name, LineEvent(change, message))


def _stopped() -> ClosedError:
    return ClosedError("the server is stopping: ask another one")
