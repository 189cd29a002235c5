# SPDX-License-Identifier: MIT
"""From workers and a model file to a loaded line: plan, confirm by every worker's dry run, load all stages. Used when a
mesh opens, on its event loop; what blocks (reading the model's header, llama.cpp's dry run) goes to a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from coordinator.candidates import Candidate, candidates_of, dealt
from coordinator.control import NextStage, StageOrder, WorkerClient
from coordinator.errors import CaravanError, DoesNotFitError, NoWorkersError, PlanError
from coordinator.fitting import DryRunReport, adjust, misfits
from coordinator.measuring import Measured, measure_all
from coordinator.plan import Demand, Plan, Stage, shown
from coordinator.planner import Distribution, Wishes, make_plan
from coordinator.prediction import Links
from coordinator.workers import FoundWorker, LeftOutWorker, StageMemory
from native import ContextParams, LayerRange, ModelLayout, dry_run, measure_layers

_MAX_PLANS = 4
"""Each round learns every worker's real compute buffers; a plan that still moves after that many does not settle."""

_CPU = "CPU"


class LoadPhase(str, Enum):
    """What is going on while a mesh opens, in this order."""

    DISCOVERING = "discovering"
    LEFT_OUT = "left out"
    STARTING = "starting workers"
    PLANNING = "planning"
    MEASURING = "measuring"
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
        fraction: Of that worker's load, 0 to 1, with LOADING.
    """

    phase: LoadPhase
    message: str
    worker: str | None = None
    layers: LayerRange | None = None
    fraction: float = 0.0


OnProgress = Callable[[LoadEvent], None]


@dataclass(frozen=True, slots=True)
class ModelOrder:
    """The model to load and how.

    Attributes:
        name: What to call it.
    """

    name: str
    layout: ModelLayout
    params: ContextParams

    def stage(self, layers: LayerRange) -> StageOrder:
        """What one worker is to load."""
        return StageOrder(self.layout.path, self.layout.identity, layers, self.params)


async def measure(order: ModelOrder) -> tuple[Demand, int]:
    """The model's exact bytes per layer, and the compute buffers that a stage of this machine's CPU would need (the
    planner's first guess for everybody's).

    Raises:
        NativeError: llama.cpp cannot make this context.
    """
    layout, params = order.layout, order.params
    costs = await asyncio.to_thread(measure_layers, layout.path, params)
    whole = LayerRange(0, layout.n_layer)
    memory = await asyncio.to_thread(dry_run, layout.path, whole, _CPU, params)
    demand = Demand(
        order.name,
        costs,
        n_ctx=params.n_ctx_seq,
        n_sequences=params.n_seq_max,
        n_batch=params.n_batch,
        n_embd=layout.n_embd,
    )
    return demand, memory.compute_bytes


async def confirmed_plans(
    order: ModelOrder,
    workers: Sequence[FoundWorker],
    clients: Mapping[str, WorkerClient],
    *,
    wishes: Wishes,
    predicted: bool,
    on_progress: OnProgress,
    left_out: Sequence[LeftOutWorker] = (),
) -> list[Plan]:
    """A plan for each line, over workers of its own, that every worker's dry run says fits.

    Args:
        clients: By worker name.
        predicted: Whether speed is measured also where it decides nothing.

    Raises:
        PlanError, DoesNotFitError: There is none.
        CaravanError: A worker failed its dry run (no such file there, another file, gone).
    """
    demand, compute_bytes = await measure(order)
    measured = Measured({}, Links({}), ())
    if predicted or (len(workers) > 1 and wishes.layer_ranges is None):
        on_progress(LoadEvent(LoadPhase.MEASURING, "measuring how fast the workers are with this model"))
        measured = await measure_all(order.layout, order.params, demand, workers, clients)
    candidates, dropped = candidates_of(
        workers, compute_bytes=compute_bytes, speeds=measured.speeds, shared=wishes.shares_devices
    )
    notes = [*_notes(workers, left_out), *measured.notes, *dropped]

    async def confirmed(some: Sequence[Candidate]) -> Plan:
        return await _confirmed(order, demand, some, clients, wishes=wishes, links=measured.links, notes=notes)

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
    order: ModelOrder,
    demand: Demand,
    candidates: Sequence[Candidate],
    clients: Mapping[str, WorkerClient],
    *,
    wishes: Wishes,
    links: Links,
    notes: Sequence[str],
) -> Plan:
    errors: list[DoesNotFitError] = []
    for _ in range(_MAX_PLANS):
        plan = make_plan(demand, candidates, wishes=wishes, links=links, notes=notes)
        reports = await _dry_runs(order, plan, clients)
        errors = misfits(plan, candidates, reports)
        if not errors:
            return plan.with_memory({worker: report.memory for worker, report in reports.items()})
        candidates = adjust(plan, candidates, reports)
    raise errors[0]


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


async def load_stages(
    order: ModelOrder,
    plan: Plan,
    clients: Sequence[WorkerClient],
    *,
    session_id: str,
    epoch: int,
    on_progress: OnProgress,
) -> Plan:
    """Loads all stages at once; gives the plan with the bytes that they took.

    Args:
        clients: Of the plan's workers, in line order.

    Raises:
        CaravanError: The first failure; the other loads are cancelled, and what was loaded is unloaded again.
    """
    tasks = [
        asyncio.ensure_future(_load(order, stage, next_stage, client, session_id, epoch, on_progress))
        for stage, next_stage, client in zip(plan.stages, [*plan.stages[1:], None], clients, strict=True)
    ]
    try:
        memory = await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
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
    order: ModelOrder,
    stage: Stage,
    next_stage: Stage | None,
    client: WorkerClient,
    session_id: str,
    epoch: int,
    on_progress: OnProgress,
) -> StageMemory:
    def report(fraction: float) -> None:
        on_progress(
            LoadEvent(
                LoadPhase.LOADING,
                f"{stage.worker} loads {shown(stage.layers)}",
                worker=stage.worker,
                layers=stage.layers,
                fraction=fraction,
            )
        )

    report(0.0)
    following = NextStage(next_stage.worker, next_stage.address) if next_stage else None
    memory = await client.load(session_id, epoch, order.stage(stage.layers), following, report)
    report(1.0)
    return memory
