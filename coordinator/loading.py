# SPDX-License-Identifier: MIT
"""From plans to loaded lines: all stages of a line at once, and once more from the start where memory has gone
meanwhile. Used when a mesh opens and when a line goes on with another plan, on its event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from coordinator.adopting import plans_of
from coordinator.confirming import PlanOrder
from coordinator.control import WorkerClient
from coordinator.errors import CaravanError, DoesNotFitError
from coordinator.events import LoadEvent, LoadPhase, OnProgress, ignore
from coordinator.orders import OtherStage
from coordinator.plan import Plan, Stage
from coordinator.weights.telling import LineTelling
from coordinator.workers import FoundWorker, LeftOutWorker, LoadedStage, StageMemory


@dataclass(frozen=True, slots=True)
class LoadedLine:
    """A line whose stages are loaded, as the session of that id; `clients` are of its workers, in line order."""

    plan: Plan
    session_id: str
    clients: tuple[WorkerClient, ...]


async def load_lines(
    order: PlanOrder, on_progress: OnProgress, *, epoch: int, claim: Callable[[Collection[str]], object]
) -> list[LoadedLine]:
    """Plans and loads. If a worker's memory no longer suffices when it is to load, plans once more with what is free by
    then.

    Args:
        claim: Called with the names of those whom the plans need.

    Raises:
        CaravanError: As `confirmed_plans` and `load_stages`; nothing is left loaded.
    """
    plans = await plans_of(order, on_progress)
    try:
        claim(_names(plans))
        return await _load_all(order, plans, epoch, on_progress)
    except DoesNotFitError as error:
        note = f"planned anew, because memory had changed when it was to be loaded: {error}"
    on_progress(LoadEvent(LoadPhase.PLANNING, note))
    plans = await plans_of(await asked_again(order), on_progress, notes=[note])
    claim(_names(plans))
    return await _load_all(order, plans, epoch, on_progress)


def _names(plans: Iterable[Plan]) -> frozenset[str]:
    return frozenset(name for plan in plans for name in plan.ranges)


async def _load_all(order: PlanOrder, plans: Sequence[Plan], epoch: int, on_progress: OnProgress) -> list[LoadedLine]:
    """One line after another; if one fails, those before are unloaded again."""
    await let_go(order, plans)
    async with contextlib.AsyncExitStack() as loaded:
        lines = []
        for plan in plans:
            clients = tuple(order.clients[stage.worker] for stage in plan.stages)
            session_id = secrets.token_hex(8)
            plan = await load_stages(order, plan, session_id=session_id, epoch=epoch, on_progress=on_progress)
            loaded.push_async_callback(unload_stages, clients, session_id)
            lines.append(LoadedLine(plan, session_id, clients))
        loaded.pop_all()
        return lines


async def let_go(order: PlanOrder, plans: Sequence[Plan]) -> None:
    """Has workers free what they keep warm and these plans do not use, on the machines that they use: there it may be
    in another worker's way."""
    stages = {stage.worker: stage for plan in plans for stage in plan.stages}
    hosts = {worker.host_name for worker in order.workers if worker.name in stages}

    async def let_go(worker: FoundWorker) -> None:
        with contextlib.suppress(CaravanError):
            await order.clients[worker.name].unload()

    def is_used(worker: FoundWorker, warm: LoadedStage) -> bool:
        return worker.name in stages and stages[worker.name].layers == warm.layers

    await asyncio.gather(
        *(
            let_go(worker)
            for worker in order.workers
            for held in worker.loaded
            if held.is_warm and worker.host_name in hosts and not is_used(worker, held)
        )
    )


async def asked_again(order: PlanOrder) -> PlanOrder:
    """The same over what the workers have now; without those that are gone."""

    async def ask(worker: FoundWorker) -> FoundWorker | LeftOutWorker:
        try:
            found = await order.clients[worker.name].describe()
            return replace(found, held_tensors=worker.held_tensors)
        except CaravanError as error:
            return LeftOutWorker(worker.name, worker.address, error)

    answers = await asyncio.gather(*map(ask, order.workers))
    workers = [answer for answer in answers if isinstance(answer, FoundWorker)]
    gone = [answer for answer in answers if isinstance(answer, LeftOutWorker)]
    return replace(order, workers=workers, left_out=[*order.left_out, *gone])


async def load_stages(order: PlanOrder, plan: Plan, *, session_id: str, epoch: int, on_progress: OnProgress) -> Plan:
    """Loads all stages at once; gives the plan with the bytes that they took.

    Raises:
        CaravanError: The first failure; the other loads are cancelled, and what was loaded is unloaded again.
    """
    try:
        return await load_stages_over(order, plan, session_id=session_id, epoch=epoch, on_progress=on_progress)
    except BaseException:
        await unload_stages([order.clients[stage.worker] for stage in plan.stages], session_id)
        raise


async def load_stages_over(
    order: PlanOrder, plan: Plan, *, session_id: str, epoch: int, on_progress: OnProgress
) -> Plan:
    """The same over what the session has on these workers already, with a later epoch: what is loaded of it stays
    loaded when another load fails, for the next try.

    Raises:
        CaravanError: The first failure; the other loads are cancelled.
    """
    return plan.with_memory(await _load_of(order, plan, plan.ranges, session_id, epoch, on_progress))


async def prepare_stages(order: PlanOrder, plan: Plan, names: Collection[str], *, session_id: str, epoch: int) -> None:
    """Loads the stages of these workers only, for a line that is to stand later, with a later epoch: by then they have
    their weights.

    Raises:
        CaravanError: The first failure; the other loads are cancelled.
    """
    await _load_of(order, plan, names, session_id, epoch, ignore)


async def unload_stages(clients: Iterable[WorkerClient], session_id: str) -> None:
    """Drops the session on all these workers; those that are gone do not matter."""
    await _unload(clients, session_id, may_keep=False)


async def end_session(clients: Iterable[WorkerClient], session_id: str) -> None:
    """The same, and what is loaded may stay warm there: it is used no more, and may soon be again."""
    await _unload(clients, session_id, may_keep=True)


async def _unload(clients: Iterable[WorkerClient], session_id: str, *, may_keep: bool) -> None:
    async def unload(client: WorkerClient) -> None:
        with contextlib.suppress(CaravanError):
            await client.unload(session_id, may_keep=may_keep)

    await asyncio.gather(*(unload(client) for client in clients))


async def _load_of(
    order: PlanOrder, plan: Plan, names: Collection[str], session_id: str, epoch: int, on_progress: OnProgress
) -> dict[str, StageMemory]:
    """Loads the stages of these workers at once; gives what each takes."""
    own = [stage for stage in plan.stages if stage.worker in names]
    telling = LineTelling(own, on_progress)
    memory = await telling.during(
        [functools.partial(_load, order, plan, stage, session_id, epoch, telling) for stage in own]
    )
    return {stage.worker: taken for stage, taken in zip(own, memory, strict=True)}


def _neighbours(plan: Plan, stage: Stage) -> tuple[OtherStage | None, OtherStage | None]:
    """Where it sends its frames on, unless it is the last; and where the last of several returns tokens to."""
    number, first = plan.stages.index(stage), plan.stages[0]
    if number + 1 < len(plan.stages):
        following = plan.stages[number + 1]
        return OtherStage(following.worker, following.address), None
    return None, OtherStage(first.worker, first.address) if number else None


async def _load(
    order: PlanOrder, plan: Plan, stage: Stage, session_id: str, epoch: int, telling: LineTelling
) -> StageMemory:
    (worker,) = [worker for worker in order.workers if worker.name == stage.worker]
    client, delivery = order.clients[stage.worker], order.delivery
    following, first = _neighbours(plan, stage)
    async with delivery.to(worker, session_id, epoch) as weights:
        load = client.load(
            session_id,
            epoch,
            order.model.stage(stage.layers, stage.n_cpu_moe),
            following,
            first,
            delivery.sources(worker, stage.layers, order.workers),
            on_report=functools.partial(telling.note, stage),
            on_needed=weights.give,
        )
        return await weights.during(load)
