# SPDX-License-Identifier: MIT
"""Who is there when a line broke, and the plan over them: workers that are left, that are new or came back, and as much
of what they have loaded as a plan that is about as good can keep. Used by `recovery`, on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.confirming import PlanOrder, confirmed_plans
from coordinator.control import WorkerClient
from coordinator.discovery import discover
from coordinator.errors import CaravanError, NoWorkersError, PlanError
from coordinator.events import ignore
from coordinator.local_workers import LocalWorkers
from coordinator.options import MeshOptions
from coordinator.plan import Plan
from coordinator.search import Objective
from coordinator.weights.offering import offer_all
from coordinator.weights.source import WeightSource
from coordinator.wishes import Wishes
from coordinator.workers import FoundWorker
from native import LayerRange

_LISTEN_S = 0.5
"""By mDNS, for workers that are new: they answer a question within a fifth of a second, and requests wait."""

_ANSWER_S = 2.0
"""For a worker to say who it is. On a LAN that takes milliseconds; one that is gone costs each look so long."""

_BACK_S = 0.3
"""The same for one that did not answer the last time: if it is back, it answers at once."""

_NEAR_ENOUGH = 0.9
"""Of the best plan's speed, for one that keeps more of what is loaded: loading again costs seconds at least."""


@dataclass(frozen=True, slots=True)
class Group:
    """Workers that answered, connected; `clients` by name."""

    workers: tuple[FoundWorker, ...]
    clients: Mapping[str, WorkerClient]

    @property
    def names(self) -> list[str]:
        """Of all of them."""
        return [worker.name for worker in self.workers]


@dataclass(frozen=True, slots=True)
class Need:
    """What a line that broke needs.

    Attributes:
        session_id: Whose stages are its own.
        broken: The plan that it had.
        taken: Names of workers that other lines use.
        gone: Names of those that are not worth asking now.
        doubtful: Names of those that a line broke at, again and again: to be left out where it goes without.
    """

    session_id: str
    broken: Plan
    taken: Collection[str] = ()
    gone: Collection[str] = ()
    doubtful: Collection[str] = ()


class Regrouping:
    """For all lines of a mesh.

    Args:
        order: That it was opened with.
        local: Workers of its own on this machine, if it has any.
    """

    def __init__(
        self, options: MeshOptions, source: WeightSource, order: PlanOrder, local: LocalWorkers | None = None
    ) -> None:
        self.options = options
        self._source = source
        self._order = order
        self._local = local
        self.channels = order.delivery.channels
        self._addresses = dict.fromkeys(options.workers, "")
        self._addresses |= {worker.address: worker.name for worker in order.workers}
        self._absent: set[str] = set()

    async def gather(self, need: Need, stack: contextlib.AsyncExitStack) -> Group:
        """Those who can take part now.

        Args:
            stack: Closes the connections to them.

        Raises:
            NoWorkersError: There is none.
            CaravanError: Two have one name.
        """
        workers = [worker for worker in await self._look(need.gone) if self._may_use(worker, need)]
        clients = {}
        for worker in workers:
            clients[worker.name] = client = WorkerClient(worker.address, self.channels, worker.name)
            stack.push_async_callback(client.close)
        return _whole(Group(tuple(workers), clients))

    async def plan(self, need: Need, group: Group) -> tuple[PlanOrder, Plan]:
        """The plan over a group, which is offered the model, confirmed by its workers; and the order that it is of.

        Raises:
            PlanError, DoesNotFitError: They cannot hold the model.
            CaravanError: One of them failed, or the model's header cannot be read any more.
        """
        offered = await offer_all(self._source, group.workers, group.clients)
        group = _whole(replace(group, workers=offered.workers))
        trusted = [worker for worker in group.workers if worker.name not in need.doubtful]
        if trusted and len(trusted) < len(group.workers):
            with contextlib.suppress(PlanError):
                return await self._plan_over(need, trusted, group.clients)
        return await self._plan_over(need, group.workers, group.clients)

    async def _look(self, gone: Collection[str]) -> list[FoundWorker]:
        """All that answer, each once."""
        if self._local is not None:
            self._addresses |= {address: "" for address in await self._local.revive() if address not in self._addresses}
        asked = [address for address, name in self._addresses.items() if not name or name not in gone]
        present = [address for address in asked if address not in self._absent]
        ask = functools.partial(
            discover, channels=self.channels, insecure=self.options.insecure_workers, telemetry=False
        )
        looks = await asyncio.gather(
            ask(present, mdns=self.options.discover, timeout_s=_LISTEN_S, answer_timeout_s=_ANSWER_S),
            ask([*self._absent.intersection(asked)], mdns=False, answer_timeout_s=_BACK_S),
        )
        found = {worker.name: worker for look in reversed(looks) for worker in look.found}
        for worker in found.values():
            self._note_address(worker)
        self._absent = self._addresses.keys() - {worker.address for worker in found.values()}
        return list(found.values())

    def _note_address(self, worker: FoundWorker) -> None:
        """A worker that moved is not looked for where it was, unless the user said that it is there."""
        for address, name in list(self._addresses.items()):
            if name == worker.name and address not in self.options.workers:
                del self._addresses[address]
        self._addresses[worker.address] = worker.name

    def _may_use(self, worker: FoundWorker, need: Need) -> bool:
        serves_others = any(stage.is_serving and stage.session_id != need.session_id for stage in worker.loaded)
        return self.options.wants(worker.name) and worker.name not in need.taken and not serves_others

    async def _plan_over(
        self, need: Need, workers: Sequence[FoundWorker], clients: Mapping[str, WorkerClient]
    ) -> tuple[PlanOrder, Plan]:
        """Two plans at once: the best, and one where who has a stage of the line keeps it."""
        names = {worker.name for worker in workers}
        wishes = _possible(self._order.wishes, names)
        order = replace(
            self._order, workers=workers, clients=clients, wishes=wishes, left_out=(), session_id=need.session_id
        )
        kept = _kept(need, workers)
        orders = [order]
        if kept and wishes.gpu_layers is None:
            orders.insert(0, replace(order, wishes=replace(wishes, pinned={**kept, **wishes.pinned})))
        plans = await asyncio.gather(*(confirmed_plans(each, ignore) for each in orders), return_exceptions=True)
        for plan in plans:
            if isinstance(plan, BaseException) and not isinstance(plan, PlanError):
                raise plan
        made = [plan[0] for plan in plans if not isinstance(plan, BaseException)]
        if not made:
            failure = plans[-1]
            assert isinstance(failure, CaravanError)
            raise failure
        return order, near_enough(made, wishes.objective)


def _whole(group: Group) -> Group:
    """The group, if there is anybody in it."""
    if not group.workers:
        raise NoWorkersError("no worker is left that could take part")
    return group


def _possible(wishes: Wishes, names: Collection[str]) -> Wishes:
    """The wishes without those who are not there; layer ranges by hand are taken for what they were at first."""
    pinned = {name: layers for name, layers in wishes.pinned.items() if name in names}
    main = wishes.main if wishes.main in names else None
    return replace(wishes, layer_ranges=None, replicas=1, pinned=pinned, main=main)


def _kept(need: Need, workers: Sequence[FoundWorker]) -> dict[str, LayerRange]:
    """The layers of the broken line that are loaded still, by worker."""
    had = {stage.worker: stage.layers for stage in need.broken.stages}
    return {
        worker.name: stage.layers
        for worker in workers
        for stage in worker.loaded
        if (stage.is_warm or stage.session_id == need.session_id) and had.get(worker.name) == stage.layers
    }


def near_enough(plans: Sequence[Plan], objective: Objective) -> Plan:
    """The first, which keeps what is loaded, unless the last is much better."""
    keeping, best = plans[0], plans[-1]
    if keeping.prediction is None or best.prediction is None:
        return keeping
    if objective is Objective.THROUGHPUT:
        speeds = keeping.prediction.parallel_tokens_per_s, best.prediction.parallel_tokens_per_s
    else:
        speeds = keeping.prediction.tokens_per_s, best.prediction.tokens_per_s
    return keeping if speeds[0] >= _NEAR_ENOUGH * speeds[1] else best
