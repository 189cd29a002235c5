# SPDX-License-Identifier: MIT
"""Who is there when a line broke, and the plan over them: workers that are left, that are new or came back, and as much
of what they have loaded as a plan that is about as good can keep. And who is there beside a line that serves, and
whether there is a much better one with them. Used by `recovery` and `joining`, on the event loop.
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
from coordinator.events import OnLineEvent, ignore, tell
from coordinator.last_words import EndsHeard
from coordinator.local_workers import LocalWorkers
from coordinator.options import MeshOptions
from coordinator.plan import Plan
from coordinator.search import Objective
from coordinator.weights.offering import offer_all
from coordinator.weights.source import WeightSource
from coordinator.wishes import Distribution, Wishes
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

_HURRY_S = 3.0
"""For a worker that is new to be measured while requests wait for a line: it may have to load a layer for that."""

_LEISURE_S = 120.0
"""The same while a line serves."""


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
    """What a line that broke needs, or one that serves and could be better.

    Attributes:
        session_id: Whose stages are its own.
        had: The plan that it had, or has.
        taken: Names of workers that other lines use.
        gone: Names of those that are not worth asking now.
        doubtful: Names of those that a line broke at, again and again: to be left out where it goes without.
    """

    session_id: str
    had: Plan
    taken: Collection[str] = ()
    gone: Collection[str] = ()
    doubtful: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Better:
    """A line that is much better than the one that serves.

    Attributes:
        order: That its plan is of.
        speed: Tokens per second of one stream in the line that serves; None: not known.
        gain: How many times as fast it will be; None: not known, it is better in that more workers take part, as was
            asked for, or in that it is the one laid out by hand.
    """

    order: PlanOrder
    plan: Plan
    speed: float | None = None
    gain: float | None = None


class Regrouping:
    """For all lines of a mesh.

    Args:
        order: That it was opened with.
        local: Workers of its own on this machine, if it has any.
        on_event: Told why workers had ended that are back.
    """

    def __init__(
        self,
        options: MeshOptions,
        source: WeightSource,
        order: PlanOrder,
        local: LocalWorkers | None = None,
        on_event: OnLineEvent = ignore,
    ) -> None:
        self.options = options
        self._source = source
        self._order = order
        self._local = local
        self._on_event = on_event
        self._ends = EndsHeard(order.workers)
        self.channels = order.delivery.channels
        self._addresses = dict.fromkeys(options.workers, "")
        self._addresses |= {worker.address: worker.name for worker in order.workers}
        self._absent: set[str] = set()
        self._first_plan: Plan | None = None

    @property
    def first_workers(self) -> Sequence[FoundWorker]:
        """Those that the mesh was opened over, or could have been."""
        return self._order.workers

    def note_first(self, plan: Plan) -> None:
        """A mesh was opened with this one."""
        self._first_plan = plan

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
        group = await self._offered(group)
        trusted = [worker for worker in group.workers if worker.name not in need.doubtful]
        if trusted and len(trusted) < len(group.workers):
            with contextlib.suppress(PlanError):
                return await self._plan_over(need, trusted, group.clients)
        return await self._plan_over(need, group.workers, group.clients)

    async def beside(self, need: Need, *, listens: bool) -> list[FoundWorker]:
        """Those who could take part and are not in the line, which serves and is not asked.

        Args:
            listens: Whether workers that show themselves by mDNS are looked for, too, if they are at all.

        Raises:
            CaravanError: Two have one name.
        """
        serving = need.had.ranges.keys()
        found = await self._look((), serving, listens=listens)
        return [worker for worker in found if worker.name not in serving and self._may_use(worker, need)]

    async def better(self, need: Need, group: Group) -> Better | None:
        """A line over this group that is much better than the one that serves, with others in it; None: there is none.
        Workers that are new are measured for it, at leisure.

        Raises:
            CaravanError: As `plan`.
        """
        group = await self._offered(group)
        order = self._order_over(need, group.workers, group.clients, _LEISURE_S)
        if self._order.wishes.layer_ranges is not None:
            return await self._by_hand(need, order)
        kept = _kept(need, order.workers)
        if len(kept) < len(need.had.stages):
            return None  # it is not what it was: it is about to break
        keeping, best = await self._plans(_pinned(order, kept), order)
        if isinstance(best, CaravanError) or best.ranges.keys() <= need.had.ranges.keys():
            return None
        return _better(order, need.had if isinstance(keeping, CaravanError) else keeping, best)

    async def _by_hand(self, need: Need, order: PlanOrder) -> Better | None:
        """Layer ranges by hand hold as long as all who had them are there."""
        first = self._first_plan
        if first is None or first.ranges == need.had.ranges:
            return None
        if not first.ranges.keys() <= {worker.name for worker in order.workers}:
            return None  # nor are others taken in: the user has said who does what
        (plan,) = await self._plans(_pinned(order, first.ranges))
        return None if isinstance(plan, CaravanError) or plan.ranges == need.had.ranges else Better(order, plan)

    async def _offered(self, group: Group) -> Group:
        """Those of the group who take the model's header."""
        offered = await offer_all(self._source, group.workers, group.clients)
        return _whole(replace(group, workers=offered.workers))

    async def _look(
        self, gone: Collection[str], serving: Collection[str] = (), *, listens: bool = True
    ) -> list[FoundWorker]:
        """All that answer, each once.

        Args:
            serving: Names of workers that are not asked, and are there all the same.
        """
        if self._local is not None:
            self._addresses |= {address: "" for address in await self._local.revive() if address not in self._addresses}
        asked = [address for address, name in self._addresses.items() if not name or name not in {*gone, *serving}]
        present = [address for address in asked if address not in self._absent]
        ask = functools.partial(
            discover, channels=self.channels, insecure=self.options.insecure_workers, telemetry=False
        )
        looks = await asyncio.gather(
            ask(present, mdns=listens and self.options.discover, timeout_s=_LISTEN_S, answer_timeout_s=_ANSWER_S),
            ask([*self._absent.intersection(asked)], mdns=False, answer_timeout_s=_BACK_S),
        )
        found = {worker.name: worker for look in reversed(looks) for worker in look.found}
        for worker in found.values():
            self._note_address(worker)
        for event in self._ends.news(found.values()):
            tell(self._on_event, event)
        there = {worker.address for worker in found.values()}
        there |= {address for address, name in self._addresses.items() if name in serving}
        self._absent = self._addresses.keys() - there
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
        order = self._order_over(need, workers, clients, _HURRY_S)
        kept = _kept(need, workers)
        orders = [order]
        if kept and order.wishes.gpu_layers is None:
            orders.insert(0, _pinned(order, kept))
        plans = await self._plans(*orders)
        made = [plan for plan in plans if isinstance(plan, Plan)]
        if not made:
            failure = plans[-1]
            assert isinstance(failure, CaravanError)
            raise failure
        return order, near_enough(made, order.wishes.objective)

    def _order_over(
        self, need: Need, workers: Sequence[FoundWorker], clients: Mapping[str, WorkerClient], patience_s: float
    ) -> PlanOrder:
        return replace(
            self._order,
            workers=workers,
            clients=clients,
            wishes=_possible(self._order.wishes, {worker.name for worker in workers}),
            left_out=(),
            session_id=need.session_id,
            patience_s=patience_s,
        )

    @staticmethod
    async def _plans(*orders: PlanOrder) -> list[Plan | PlanError]:
        """A plan for each, or why there is none; any other error is raised."""
        answers = await asyncio.gather(*(confirmed_plans(each, ignore) for each in orders), return_exceptions=True)
        plans: list[Plan | PlanError] = []
        for answer in answers:
            if isinstance(answer, PlanError):
                plans.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                plans.append(answer[0])
        return plans


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
    """The layers of the line that are loaded still, by worker."""
    had = need.had.ranges
    return {
        worker.name: stage.layers
        for worker in workers
        for stage in worker.loaded
        if (stage.is_warm or stage.session_id == need.session_id) and had.get(worker.name) == stage.layers
    }


def _pinned(order: PlanOrder, ranges: Mapping[str, LayerRange]) -> PlanOrder:
    """The same where these workers hold these layers, unless the user gave them others."""
    wishes = order.wishes
    return replace(order, wishes=replace(wishes, pinned={**ranges, **wishes.pinned}))


def near_enough(plans: Sequence[Plan], objective: Objective) -> Plan:
    """The first, which keeps what is loaded, unless the last is much better."""
    keeping, best = plans[0], plans[-1]
    gain = _gain(keeping, best, objective)
    return keeping if gain is None or gain <= 1 / _NEAR_ENOUGH else best


def _better(order: PlanOrder, keeping: Plan, best: Plan) -> Better | None:
    """What is better about a line, if anything is: its speed by more than a tenth; or that more workers take part,
    where as many as possible are to."""
    wishes = order.wishes
    gain = _gain(keeping, best, wishes.objective)
    speed = None if keeping.prediction is None else keeping.prediction.tokens_per_s
    if gain is not None and gain > 1 / _NEAR_ENOUGH:
        return Better(order, best, speed, gain)
    wants_all = wishes.distribution is Distribution.ON and len(best.stages) > len(keeping.stages)
    return Better(order, best, speed) if wants_all else None


def _gain(one: Plan, other: Plan, objective: Objective) -> float | None:
    """How many times as fast the other is; None: not known."""
    if one.prediction is None or other.prediction is None:
        return None
    if objective is Objective.THROUGHPUT:
        return other.prediction.parallel_tokens_per_s / one.prediction.parallel_tokens_per_s
    return other.prediction.tokens_per_s / one.prediction.tokens_per_s
