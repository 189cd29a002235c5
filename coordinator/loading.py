# SPDX-License-Identifier: MIT
"""From workers and a model file to a loaded line: plan, confirm by every worker's dry run, load all stages. Used when a
mesh opens, on its event loop; what blocks (reading the model's header, llama.cpp's dry run) goes to a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.candidates import Candidate, candidates_of, dealt
from coordinator.control import NextStage, StageOrder, WorkerClient
from coordinator.errors import CaravanError, DoesNotFitError, NoWorkersError, PlanError
from coordinator.events import LoadEvent, LoadPhase, OnProgress
from coordinator.fitting import DryRunReport, adjust, beyond_bytes, misfits
from coordinator.measuring import Measured, measure_all
from coordinator.plan import Demand, Plan, Stage, shown
from coordinator.planner import Distribution, Wishes, make_plan
from coordinator.prediction import Links
from coordinator.weights.delivery import Delivery
from coordinator.weights.telling import LineTelling
from coordinator.workers import FoundWorker, LeftOutWorker, StageMemory
from native import ContextParams, LayerRange, ModelLayout, dry_run, measure_layers

_MAX_PLANS = 4
"""Each round learns every worker's real compute buffers; a plan that still moves after that many does not settle."""

_CPU = "CPU"


@dataclass(frozen=True, slots=True)
class ModelOrder:
    """The model to load and how.

    Attributes:
        name: What to call it.
        layout: Of files here, which may hold nothing but headers.
        told_path: As in WeightSource.
    """

    name: str
    layout: ModelLayout
    params: ContextParams
    told_path: str

    def stage(self, layers: LayerRange) -> StageOrder:
        """What one worker is to load."""
        return StageOrder(self.told_path, self.layout.identity, layers, self.params)


@dataclass(frozen=True, slots=True)
class PlanOrder:
    """What is to be planned, and over whom.

    Attributes:
        clients: By worker name.
        predicted: Whether speed is measured also where it decides nothing.
        delivery: Of the model's weights.
        left_out: Who cannot take part, for the plan's notes.
    """

    model: ModelOrder
    workers: Sequence[FoundWorker]
    clients: Mapping[str, WorkerClient]
    wishes: Wishes
    predicted: bool
    delivery: Delivery
    left_out: Sequence[LeftOutWorker] = ()


async def measure(order: ModelOrder) -> Demand:
    """The model's exact bytes per layer; what the output layer computes in, as on this machine's CPU.

    Raises:
        NativeError: llama.cpp cannot make this context.
    """
    layout, params = order.layout, order.params
    costs = await asyncio.to_thread(measure_layers, layout.path, params)
    demand = Demand(
        order.name,
        costs,
        n_ctx=params.n_ctx_seq,
        n_sequences=params.n_seq_max,
        n_batch=params.n_batch,
        n_embd=layout.n_embd,
    )
    ends = (_least_stage(demand), LayerRange(layout.n_layer - 1, layout.n_layer))
    least, last = [await asyncio.to_thread(dry_run, layout.path, layers, _CPU, params) for layers in ends]
    return replace(demand, output_compute_bytes=last.compute_bytes - least.compute_bytes)


async def confirmed_plans(order: PlanOrder, on_progress: OnProgress, *, notes: Sequence[str] = ()) -> list[Plan]:
    """A plan for each line, over workers of its own, that every worker's dry run says fits.

    Args:
        notes: What else the plans are to say.

    Raises:
        PlanError, DoesNotFitError: There is none.
        CaravanError: A worker failed its dry run (no such file there, another file, gone).
    """
    model, workers, clients, wishes = order.model, order.workers, order.clients, order.wishes
    demand = await measure(model)
    measured = Measured({}, Links({}), ())
    if order.predicted or (len(workers) > 1 and wishes.layer_ranges is None):
        on_progress(LoadEvent(LoadPhase.MEASURING, "measuring how fast the workers are with this model"))
        measured = await measure_all(model.layout, model.told_path, model.params, demand, workers, clients)
    compute_bytes = await _least_compute(model, demand, workers, clients)
    all_notes = [*notes, *_notes(workers, order.left_out), *measured.notes]

    async def plans(*, shared: bool) -> list[Plan]:
        candidates, dropped = candidates_of(workers, compute_bytes=compute_bytes, speeds=measured.speeds, shared=shared)
        return await _lines(order, demand, candidates, measured.links, [*all_notes, *dropped])

    if wishes.shares_devices:
        return await plans(shared=True)
    try:
        return await plans(shared=False)
    except DoesNotFitError:
        # Several workers on one device may together have more of it than any of them.
        return await plans(shared=True)


async def _lines(
    order: PlanOrder, demand: Demand, candidates: Sequence[Candidate], links: Links, notes: Sequence[str]
) -> list[Plan]:
    """As many lines as are wished for."""
    wishes = order.wishes

    async def confirmed(some: Sequence[Candidate]) -> Plan:
        return await _confirmed(order, demand, some, links=links, notes=notes)

    if wishes.replicas == 1:
        return [await confirmed(candidates)]
    if wishes.replicas is not None and wishes.replicas > len(candidates):
        raise PlanError(
            f"{wishes.replicas} lines need {wishes.replicas} workers or more, and {len(candidates)} can take part"
            + "".join(f"; {note}" for note in notes)
        )
    if wishes.distribution is Distribution.ON and wishes.replicas is not None:
        return [await confirmed(group) for group in dealt(candidates, wishes.replicas)]
    return await _one_after_another(candidates, wishes.replicas, confirmed)


async def _one_after_another(
    candidates: Sequence[Candidate], n_lines: int | None, confirmed: Callable[[Sequence[Candidate]], Awaitable[Plan]]
) -> list[Plan]:
    """The best line, then the best one over whom that left, and so on; `n_lines` None: until no more find room."""
    plans: list[Plan] = []
    left = list(candidates)
    while n_lines is None or len(plans) < n_lines:
        try:
            plans.append(await confirmed(left))
        except (DoesNotFitError, NoWorkersError):
            if n_lines is None and plans:
                break
            raise
        used = {stage.worker for stage in plans[-1].stages}
        left = [candidate for candidate in left if candidate.name not in used]
    return [plan.besides({stage.worker for other in plans for stage in other.stages}) for plan in plans]


async def _confirmed(
    order: PlanOrder, demand: Demand, candidates: Sequence[Candidate], *, links: Links, notes: Sequence[str]
) -> Plan:
    errors: list[DoesNotFitError] = []
    for _ in range(_MAX_PLANS):
        plan = make_plan(demand, candidates, wishes=order.wishes, links=links, notes=notes)
        reports = await _dry_runs(order.model, plan, order.clients)
        errors = misfits(plan, candidates, reports)
        if not errors:
            return plan.with_memory({worker: report.memory for worker, report in reports.items()})
        candidates = adjust(plan, candidates, reports)
    raise errors[0]


def _least_stage(demand: Demand) -> LayerRange:
    """The layer that takes least, without the output layer if there is more than one."""
    layers = demand.costs.layers[:-1] or demand.costs.layers
    least = min(range(len(layers)), key=lambda layer: layers[layer].weights_bytes + layers[layer].kv_bytes)
    return LayerRange(least, least + 1)


async def _least_compute(
    order: ModelOrder, demand: Demand, workers: Sequence[FoundWorker], clients: Mapping[str, WorkerClient]
) -> dict[str, int]:
    """By worker name, what the smallest stage takes there beyond its weights and KV: what any stage needs, so that
    nobody is left out who can hold one. Who does not tell fails later, if anything is planned for it."""
    layers = _least_stage(demand)

    async def ask(worker: FoundWorker) -> int:
        try:
            report = await clients[worker.name].dry_run(order.stage(layers))
        except CaravanError:
            return 0
        return beyond_bytes(demand, layers, report.memory, holds_input=worker.device.is_cpu)

    return {
        worker.name: n_bytes for worker, n_bytes in zip(workers, await asyncio.gather(*map(ask, workers)), strict=True)
    }


def _notes(workers: Sequence[FoundWorker], left_out: Sequence[LeftOutWorker]) -> list[str]:
    """What a plan over these workers has to say beside its stages."""
    return [
        *(f"left out: {worker.name}: {worker.reason}" for worker in left_out),
        *(
            f"taken over: {worker.name} holds {shown(stage.layers)} of another session, which ends when this one loads"
            for worker in workers
            for stage in worker.loaded
        ),
    ]


async def _dry_runs(order: ModelOrder, plan: Plan, clients: Mapping[str, WorkerClient]) -> dict[str, DryRunReport]:
    """Every stage's dry run, by worker name, all at once."""
    reports = await asyncio.gather(*(clients[stage.worker].dry_run(order.stage(stage.layers)) for stage in plan.stages))
    return {stage.worker: report for stage, report in zip(plan.stages, reports, strict=True)}


@dataclass(frozen=True, slots=True)
class LoadedLine:
    """A line whose stages are loaded, as the session of that id; `clients` are of its workers, in line order."""

    plan: Plan
    session_id: str
    clients: tuple[WorkerClient, ...]


async def load_lines(order: PlanOrder, on_progress: OnProgress, *, epoch: int) -> list[LoadedLine]:
    """Plans and loads. If a worker's memory no longer suffices when it is to load, plans once more with what is free by
    then.

    Raises:
        CaravanError: As `confirmed_plans` and `load_stages`; nothing is left loaded.
    """
    plans = await confirmed_plans(order, on_progress)
    try:
        return await _load_all(order, plans, epoch, on_progress)
    except DoesNotFitError as error:
        note = f"planned anew, because memory had changed when it was to be loaded: {error}"
    on_progress(LoadEvent(LoadPhase.PLANNING, note))
    plans = await confirmed_plans(await _asked_again(order), on_progress, notes=[note])
    return await _load_all(order, plans, epoch, on_progress)


async def _load_all(order: PlanOrder, plans: Sequence[Plan], epoch: int, on_progress: OnProgress) -> list[LoadedLine]:
    """One line after another; if one fails, those before are unloaded again."""
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


async def _asked_again(order: PlanOrder) -> PlanOrder:
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
    clients = [order.clients[stage.worker] for stage in plan.stages]
    telling = LineTelling(plan.stages, on_progress)
    loads = [
        functools.partial(_load, order, stage, next_stage, session_id, epoch, telling)
        for stage, next_stage in zip(plan.stages, [*plan.stages[1:], None], strict=True)
    ]
    try:
        memory = await telling.during(loads)
    except BaseException:
        await unload_stages(clients, session_id)
        raise
    return plan.with_memory({stage.worker: taken for stage, taken in zip(plan.stages, memory, strict=True)})


async def unload_stages(clients: Iterable[WorkerClient], session_id: str) -> None:
    """Drops the session on all these workers; those that are gone do not matter."""

    async def unload(client: WorkerClient) -> None:
        with contextlib.suppress(CaravanError):
            await client.unload(session_id)

    await asyncio.gather(*(unload(client) for client in clients))


async def _load(
    order: PlanOrder, stage: Stage, next_stage: Stage | None, session_id: str, epoch: int, telling: LineTelling
) -> StageMemory:
    (worker,) = [worker for worker in order.workers if worker.name == stage.worker]
    client, delivery = order.clients[stage.worker], order.delivery
    following = NextStage(next_stage.worker, next_stage.address) if next_stage else None
    async with delivery.to(worker, session_id, epoch) as weights:
        load = client.load(
            session_id,
            epoch,
            order.model.stage(stage.layers),
            following,
            delivery.sources(worker, stage.layers, order.workers),
            on_report=functools.partial(telling.note, stage),
            on_needed=weights.give,
        )
        return await weights.during(load)
