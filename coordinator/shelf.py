# SPDX-License-Identifier: MIT
"""A model's place in a catalogue, loaded or not, and the requests that hold it or wait for it. On the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from types import TracebackType

from coordinator.errors import DeadlineError
from coordinator.mesh import AsyncMesh
from coordinator.options import MeshOptions
from coordinator.resident import KnownModel, Resident


class Lease:
    """A request's hold on a model, from when it asks for it: once it has arrived it is not unloaded before this is
    released, unless that takes too long. What runs in the mesh holds the model by itself; a lease is for what is before
    and beside that. A context manager that releases it."""

    def __init__(self, shelf: Shelf, on_given_up: Callable[[Shelf], object]) -> None:
        self.name = shelf.model.name
        self.waited_s = 0.0
        self._shelf = shelf
        self._on_given_up = on_given_up
        self._held: Held | None = None
        self._arrival: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def mesh(self) -> AsyncMesh:
        """The model's, once it has arrived."""
        assert self._held is not None
        return self._held.resident.mesh

    @property
    def has_arrived(self) -> bool:
        """Whether it is known that the model is there, or why it will not be."""
        return self._arrival.done()

    async def arrived(self, timeout_s: float | None = None) -> AsyncMesh:
        """Returns when the model is there; `waited_s` tells how long that took.

        Raises:
            DeadlineError: It was not there in time.
            CaravanError: Why it will not be.
        """
        began_s = time.monotonic()
        await asyncio.wait([self._arrival], timeout=timeout_s)
        self.waited_s = time.monotonic() - began_s
        if not self._arrival.done():
            assert timeout_s is not None
            raise DeadlineError(timeout_s, 0)
        self._arrival.result()
        return self.mesh

    def admit(self, held: Held) -> None:
        """The model is there."""
        self._held = held
        held.n_leases += 1
        held.used_s = time.monotonic()
        self._arrival.set_result(None)

    def refuse(self, error: Exception) -> None:
        """It will not be."""
        self._arrival.set_exception(error)
        self._arrival.exception()  # whoever waited may be gone

    def release(self) -> None:
        """Nobody needs it any more; safe to repeat."""
        held, self._held = self._held, None
        if held is not None:
            held.n_leases -= 1
            held.used_s = time.monotonic()
        elif self in self._shelf.waiting:
            self._shelf.waiting.remove(self)
            self._on_given_up(self._shelf)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.release()


class Held:
    """A model that is loaded.

    Attributes:
        used_s: When a request had it last, on the monotonic clock.
        is_leaving: It takes no new requests.
    """

    def __init__(self, resident: Resident) -> None:
        self.resident = resident
        self.n_leases = 0
        self.used_s = time.monotonic()
        self.is_leaving = False

    @property
    def is_busy(self) -> bool:
        """Whether requests have it, which can still be answered."""
        return self.resident.mesh.error is None and (self.n_leases > 0 or self.resident.is_busy)


class Shelf:
    """A model's place.

    Attributes:
        held: None: it is not loaded.
        is_wanted: Though perhaps nobody waits for it.
        error: Why it could not be loaded the last time.
    """

    def __init__(self, model: KnownModel) -> None:
        self.model = model
        self.held: Held | None = None
        self.waiting: list[Lease] = []
        self.is_wanted = False
        self.error: Exception | None = None

    @property
    def is_there(self) -> bool:
        """Whether it takes requests."""
        return self.held is not None and not self.held.is_leaving

    @property
    def is_asked_for(self) -> bool:
        """Whether anybody wants it to be loaded."""
        return self.is_wanted or bool(self.waiting)

    @property
    def most_waiting(self) -> int:
        """As many requests as it has slots and places in its queue."""
        options = MeshOptions(self.model.model, **self.model.options)
        return options.parallel + options.queue

    def admit_all(self) -> None:
        """Whoever waits."""
        assert self.held is not None
        self.is_wanted = False
        waiting, self.waiting = self.waiting, []
        for lease in waiting:
            lease.admit(self.held)

    def refuse_all(self, error: Exception) -> None:
        """Whoever waits."""
        self.is_wanted = False
        waiting, self.waiting = self.waiting, []
        for lease in waiting:
            lease.refuse(error)


def least_missed(shelves: Sequence[Shelf]) -> list[Shelf]:
    """Those that are loaded in the order in which they make way: first who serves no more, then who has nothing to do,
    and of these who was used longest ago."""

    def rank(shelf: Shelf) -> tuple[bool, bool, float]:
        assert shelf.held is not None
        return shelf.held.resident.mesh.error is None, shelf.held.is_busy, shelf.held.used_s

    return sorted((shelf for shelf in shelves if shelf.held is not None), key=rank)


def in_the_way(shelves: Sequence[Shelf], used: Collection[str], n_least: int) -> list[Shelf]:
    """Of those that could make way, who has to: whose workers a plan uses, and at least so many."""
    needed = [
        shelf for shelf in shelves if shelf.held is not None and not shelf.held.resident.workers.keys().isdisjoint(used)
    ]
    others = [shelf for shelf in shelves if shelf not in needed]
    return needed + others[: max(0, n_least - len(needed))]
