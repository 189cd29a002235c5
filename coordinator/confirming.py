# SPDX-License-Identifier: MIT
"""From workers and a model file to plans that every worker's dry run says fit: measure the model, the devices and the
links, plan, ask, and plan again with what was learned. Used when a mesh opens, on its event loop; what blocks (reading
the model's header, llama.cpp's dry run) goes to a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from coordinator.candidates import Candidate, candidates_of, dealt
from coordinator.control import WorkerClient
from coordinator.correction_store import read_corrections
from coordinator.corrections import Correction, corrected
from coordinator.cost_store import ModelCosts, keep_costs, recalled_costs
from coordinator.errors import CaravanError, DoesNotFitError, NoWorkersError, PlanError
from coordinator.events import LoadEvent, LoadPhase, OnProgress
from coordinator.fitting import DryRunReport, adjust, beyond_bytes, misfits
from coordinator.measuring import HostedSpeeds, Measured, Measurements, Subject
from coordinator.orders import StageOrder
from coordinator.plan import Demand, Plan, shown
from coordinator.planner import make_plan, needs_hosted_experts
from coordinator.prediction import Links
from coordinator.weights.delivery import Delivery
from coordinator.wishes import Distribution, Wishes
from coordinator.workers import FoundWorker, LeftOutWorker
from native import (
    ContextParams,
    FlashAttention,
    LayerCosts,
    LayerRange,
    ModelLayout,
    NativeError,
    dry_run,
    measure_layers,
)

_MAX_PLANS = 4
"""Each round learns every worker's real compute buffers; a plan that still moves after that many does not settle."""

_CPU = "CPU"

_COMPACT_KV = "q8_0"
"""The smaller type of KV cache that is offered: half of f16, and hardly any loss."""


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

    def stage(self, layers: LayerRange, n_cpu_moe: int = 0) -> StageOrder:
        """What one worker is to load."""
        return StageOrder(self.told_path, self.layout.identity, layers, self.params, n_cpu_moe)


@dataclass(frozen=True, slots=True)
class PlanOrder:
    """What is to be planned, and over whom.

    Attributes:
        demand: Of the model, as `measure` has it.
        clients: By worker name.
        predicted: Whether speed is measured also where it decides nothing.
        delivery: Of the model's weights.
        left_out: Who cannot take part, for the plan's notes.
        measurements: Taken so far.
        session_id: Of the line that is to go on with another plan; empty: there is none yet.
        patience_s: There, with a worker that is not measured yet.
    """

    model: ModelOrder
    demand: Demand
    workers: Sequence[FoundWorker]
    clients: Mapping[str, WorkerClient]
    wishes: Wishes
    predicted: bool
    delivery: Delivery
    left_out: Sequence[LeftOutWorker] = ()
    measurements: Measurements = field(default_factory=Measurements)
    session_id: str = ""
    patience_s: float = 0.0


async def measure(order: ModelOrder) -> Demand:
    """The model's exact bytes per layer; what the output layer computes in, as on this machine's CPU.

    Raises:
        NativeError: llama.cpp cannot make this context.
    """
    layout, params = order.layout, order.params
    costs = await asyncio.to_thread(_costs, order)
    return Demand(
        order.name,
        costs.layers,
        n_ctx=params.n_ctx_seq,
        n_sequences=params.n_seq_max,
        n_batch=params.n_batch,
        n_embd=layout.n_embd,
        identity=layout.identity,
        bits_per_weight=8 * layout.n_bytes / max(1, sum(tensor.n_elements for tensor in layout.tensors)),
        output_compute_bytes=costs.output_compute_bytes,
        writes=layout.writes,
    )


def _costs(order: ModelOrder) -> ModelCosts:
    """By dry runs, for the first time. Blocks. Raises as `measure`."""
    layout, params = order.layout, order.params
    costs = recalled_costs(layout.identity, params)
    if costs is None:
        layers = measure_layers(layout, params)
        ends = (_least_stage(layers), LayerRange(layout.n_layer - 1, layout.n_layer))
        # Where outputs of embeddings lie depends on the worker, whose own dry run tells.
        writing = replace(params, pooling=None)
        least, last = [dry_run(layout, end, _CPU, writing).compute_bytes for end in ends]
        costs = ModelCosts(layers, last - least)
        keep_costs(layout.identity, params, costs)
    return costs


async def _with_compact_kv(order: ModelOrder, demand: Demand) -> Demand:
    """The same with what a smaller KV cache would take, if this model can have one."""
    params = replace(order.params, kv_type_k=_COMPACT_KV, kv_type_v=_COMPACT_KV, flash_attention=FlashAttention.ON)
    try:
        costs = await asyncio.to_thread(measure_layers, order.layout, params)
    except NativeError:
        return demand
    kv_bytes = sum(layer.kv_bytes for layer in costs.layers)
    return replace(demand, compact_kv_bytes=kv_bytes if kv_bytes < demand.kv_bytes else None)


@dataclass(frozen=True, slots=True)
class _Basis:
    """What plans are made from.

    Attributes:
        compute_bytes: By worker name, what any stage takes there to compute.
        corrections: What earlier runs taught, by place.
        notes: What all plans have to say.
    """

    demand: Demand
    measured: Measured
    hosted: HostedSpeeds
    compute_bytes: Mapping[str, int]
    corrections: Mapping[str, Correction]
    notes: Sequence[str]


async def confirmed_plans(order: PlanOrder, on_progress: OnProgress, *, notes: Sequence[str] = ()) -> list[Plan]:
    """A plan for each line, over workers of its own, that every worker's dry run says fits.

    Args:
        notes: What else the plans are to say.

    Raises:
        PlanError, DoesNotFitError: There is none.
        CaravanError: A worker failed its dry run (no such file there, another file, gone).
    """
    model, workers, clients, wishes = order.model, order.workers, order.clients, order.wishes
    demand = order.demand
    subject = Subject(model.layout, model.told_path, model.params, demand, workers, clients)
    measured = Measured({}, Links({}), {})
    if order.predicted or (len(workers) > 1 and wishes.layer_ranges is None):
        on_progress(LoadEvent(LoadPhase.MEASURING, "measuring how fast the workers are with this model"))
        measured = await order.measurements.of(subject, patience_s=order.patience_s if order.session_id else None)
    basis = _Basis(
        demand,
        measured,
        HostedSpeeds(subject, measured.speeds),
        await _least_compute(model, demand, workers, clients),
        await asyncio.to_thread(read_corrections, model.layout.identity),
        [*notes, *_notes(order)],
    )
    try:
        return await _plans(order, basis)
    except DoesNotFitError:
        if order.session_id:
            raise
        # What a smaller KV cache would save is told where it may help.
        return await _plans(order, replace(basis, demand=await _with_compact_kv(model, demand)))


async def _plans(order: PlanOrder, basis: _Basis) -> list[Plan]:
    """Where nobody says otherwise, each device has one worker that takes part."""
    if order.wishes.shares_devices:
        return await _lines(order, basis, shared=True)
    try:
        return await _lines(order, basis, shared=False)
    except DoesNotFitError:
        # Several workers on one device may together have more of it than any of them.
        return await _lines(order, basis, shared=True)


async def _lines(order: PlanOrder, basis: _Basis, *, shared: bool) -> list[Plan]:
    """As many lines as are wished for."""
    wishes = order.wishes
    candidates, dropped = candidates_of(
        order.workers,
        compute_bytes=basis.compute_bytes,
        speeds=basis.measured.speeds,
        shared=shared,
        main=wishes.main,
    )
    basis = replace(basis, notes=[*basis.notes, *dropped])

    async def confirmed(some: Sequence[Candidate]) -> Plan:
        return await _confirmed(order, basis, some)

    if wishes.replicas == 1:
        return [await confirmed(candidates)]
    if wishes.replicas is not None and wishes.replicas > len(candidates):
        raise PlanError(
            f"{wishes.replicas} lines need {wishes.replicas} workers or more, and {len(candidates)} can take part"
            + "".join(f"; {note}" for note in basis.notes)
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
        used = plans[-1].ranges
        left = [candidate for candidate in left if candidate.name not in used]
    return [plan.besides({stage.worker for other in plans for stage in other.stages}) for plan in plans]


async def _confirmed(order: PlanOrder, basis: _Basis, candidates: Sequence[Candidate]) -> Plan:
    errors: list[DoesNotFitError] = []
    demand, links, wishes = basis.demand, basis.measured.links, order.wishes
    for _ in range(_MAX_PLANS):
        if _wants_hosted(order, basis, candidates):
            candidates = await basis.hosted.added_to(candidates)
        known = [corrected(candidate, basis.corrections) for candidate in candidates]
        plan = make_plan(demand, known, wishes=wishes, links=links, notes=basis.notes)
        plan = plan.noting(_unmeasured(basis, candidates, plan))
        reports = await _dry_runs(order.model, plan, order.clients)
        errors = misfits(plan, candidates, reports)
        if not errors:
            return plan.with_memory({worker: report.memory for worker, report in reports.items()})
        candidates = adjust(plan, candidates, reports)
    raise errors[0]


def _unmeasured(basis: _Basis, candidates: Sequence[Candidate], plan: Plan) -> list[str]:
    """A sentence for everybody whose speed is not known, and for every stage whose experts' is not."""
    without = {candidate.name for candidate in candidates if candidate.speed is None}
    hosted = {stage.worker for stage in plan.stages if stage.n_cpu_moe} - without
    errors, hosted_errors = basis.measured.errors, basis.hosted.errors
    return [
        *(f"the speed of {name} is not known: {error}" for name, error in errors.items() if name in without),
        *(
            f"the speed of {name} with experts in RAM is not known: {error}"
            for name, error in hosted_errors.items()
            if name in hosted
        ),
    ]


def _wants_hosted(order: PlanOrder, basis: _Basis, candidates: Sequence[Candidate]) -> bool:
    """Whether it is to be known how fast layers are with their experts in system memory: if speeds decide and experts
    have to lie there, or if somebody wants to see what it would be like."""
    if not (basis.measured.speeds or basis.measured.errors) or not basis.demand.expert_bytes:
        return False
    if order.predicted and len(candidates) > 1:
        return True
    return needs_hosted_experts(basis.demand, candidates, order.wishes, basis.measured.links)


def _least_stage(costs: LayerCosts) -> LayerRange:
    """The layer that takes least, without the output layer if there is more than one."""
    layers = costs.layers[:-1] or costs.layers
    least = min(range(len(layers)), key=lambda layer: layers[layer].weights_bytes + layers[layer].kv_bytes)
    return LayerRange(least, least + 1)


async def _least_compute(
    order: ModelOrder, demand: Demand, workers: Sequence[FoundWorker], clients: Mapping[str, WorkerClient]
) -> dict[str, int]:
    """By worker name, what the smallest stage takes there beyond its weights and KV: what any stage needs, so that
    nobody is left out who can hold one. Who does not tell fails later, if anything is planned for it."""
    layers = _least_stage(demand.costs)

    async def ask(worker: FoundWorker) -> int:
        try:
            report = await clients[worker.name].dry_run(order.stage(layers))
        except CaravanError:
            return 0
        return beyond_bytes(demand, layers, report.memory, holds_input=worker.device.is_cpu)

    return {
        worker.name: n_bytes for worker, n_bytes in zip(workers, await asyncio.gather(*map(ask, workers)), strict=True)
    }


def _notes(order: PlanOrder) -> list[str]:
    """What a plan over these workers has to say beside its stages."""
    return [
        *(f"left out: {worker.name}: {worker.reason}" for worker in order.left_out),
        *(
            f"taken over: {worker.name} holds {shown(stage.layers)} of another session, which ends when this one loads"
            for worker in order.workers
            for stage in worker.loaded
            if not stage.is_warm and stage.session_id != order.session_id
        ),
    ]


async def _dry_runs(order: ModelOrder, plan: Plan, clients: Mapping[str, WorkerClient]) -> dict[str, DryRunReport]:
    """Every stage's dry run, by worker name, all at once."""
    reports = await asyncio.gather(
        *(clients[stage.worker].dry_run(order.stage(stage.layers, stage.n_cpu_moe)) for stage in plan.stages)
    )
    return {stage.worker: report for stage, report in zip(plan.stages, reports, strict=True)}
