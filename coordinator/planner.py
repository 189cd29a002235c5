# SPDX-License-Identifier: MIT
"""Which worker holds which layers. Pure: exact bytes and free memory in, a plan that explains itself (or an error with
the numbers) out. Called when a mesh opens, and again with what the workers' dry runs said.

The policy of this first planner: everybody takes part, in the order given, with layers in proportion to free memory.
The cut minimises the sum of bytes^2 / capacity over the stages; left to itself (no whole layers, no limits) that sum is
smallest where each stage's bytes are in proportion to its capacity. Found exactly, by dynamic programming over (worker,
layers given so far).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from coordinator.errors import DoesNotFitError, NoWorkersError, PlanError
from coordinator.plan import Demand, Plan, Stage, shown, size
from coordinator.workers import FoundWorker, StageMemory
from native import LayerRange

MARGIN_BYTES = 64 << 20
"""Left free on every device beside what a stage is known to need: drivers and allocators round up."""

_CONTEXT_STEP = 256
"""llama.cpp rounds a context up to this many tokens."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker as the planner sees it.

    Attributes:
        free_bytes: For a new stage: its share of what is free on its device.
        reserve_bytes: Of these, not for weights and KV: compute buffers and margin.
        holds_input: Whether the token embedding lies in the same memory (CPU); llama.cpp keeps it off GPUs.
        held_bytes: Held on the device by stages that a new load replaces.
        n_sharers: Workers on that device, this one included.
    """

    name: str
    address: str
    device: str
    free_bytes: int
    reserve_bytes: int = 0
    holds_input: bool = True
    held_bytes: int = 0
    n_sharers: int = 1

    @property
    def capacity_bytes(self) -> int:
        """For weights and KV."""
        return max(0, self.free_bytes - self.reserve_bytes)

    def share_of(self, free_bytes: int) -> int:
        """What this one may count on when its device has so much free."""
        return (free_bytes + self.held_bytes) // self.n_sharers


def candidates_of(workers: Sequence[FoundWorker], *, compute_bytes: int) -> list[Candidate]:
    """The workers as candidates, in the same order.

    Workers on one device of one machine (two on a CPU, say) each report the same free bytes: they share them.

    Args:
        compute_bytes: Expected compute buffers of a stage, until its dry run tells.
    """
    groups: dict[tuple[str, str], list[FoundWorker]] = {}
    for worker in workers:
        groups.setdefault((worker.host_name, worker.device.name), []).append(worker)
    candidates = []
    for worker in workers:
        group = groups[worker.host_name, worker.device.name]
        candidate = Candidate(
            name=worker.name,
            address=worker.address,
            device=worker.device.name,
            free_bytes=0,
            reserve_bytes=compute_bytes + MARGIN_BYTES,
            holds_input=worker.device.is_cpu,
            held_bytes=sum(stage.memory.device_bytes for sharer in group for stage in sharer.loaded),
            n_sharers=len(group),
        )
        candidates.append(replace(candidate, free_bytes=candidate.share_of(worker.device.free_bytes)))
    return candidates


def make_plan(
    demand: Demand,
    candidates: Sequence[Candidate],
    *,
    layer_ranges: Sequence[LayerRange] | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """Lays the model over the candidates.

    Args:
        layer_ranges: Manual ranges for the first so many candidates, in order; they win over the policy, not over
            memory.
        notes: What else the plan is to say.

    Raises:
        NoWorkersError: No candidates.
        PlanError: Manual ranges that do not cover the model, or more of them than workers.
        DoesNotFitError: Memory does not suffice.
    """
    if not candidates:
        raise NoWorkersError("no worker can take part: start one with `caravan worker`")
    if layer_ranges is not None:
        ranges = _manual(demand, candidates, layer_ranges)
    else:
        ranges = _cut(demand, candidates)
        notes = [
            *notes,
            *(_why_left_out(demand, c) for c, layers in zip(candidates, ranges, strict=True) if layers is None),
        ]
    stages = tuple(
        Stage(
            worker=candidate.name,
            address=candidate.address,
            device=candidate.device,
            layers=layers,
            memory=demand.stage_memory(layers, holds_input=candidate.holds_input),
            free_bytes=candidate.free_bytes,
        )
        for candidate, layers in zip(candidates, ranges, strict=True)
        if layers is not None
    )
    return Plan(demand, stages, tuple(notes))


@dataclass(frozen=True, slots=True)
class DryRunReport:
    """What a worker's dry run of its stage said: the stage's bytes, and those free on the device when asked."""

    memory: StageMemory
    free_bytes: int


def misfits(plan: Plan, candidates: Sequence[Candidate], reports: Mapping[str, DryRunReport]) -> list[DoesNotFitError]:
    """An error for each stage that its worker's dry run (by worker name) says does not fit with the margin."""
    named = {candidate.name: candidate for candidate in candidates}
    errors = []
    for stage in plan.stages:
        memory = reports[stage.worker].memory
        free_bytes = named[stage.worker].share_of(reports[stage.worker].free_bytes)
        if memory.device_bytes + MARGIN_BYTES > free_bytes:
            errors.append(
                DoesNotFitError(
                    f"{shown(stage.layers)} of {plan.demand.model} take "
                    f"{size(memory.device_bytes)} on {stage.worker} ({size(memory.weights_bytes)} of weights, "
                    f"{size(memory.kv_bytes)} of KV cache, {size(memory.compute_bytes)} of compute buffers) and it has "
                    f"{size(free_bytes)} free: {_remedy(plan.demand, memory.device_bytes - free_bytes)}",
                    needed_bytes=memory.device_bytes,
                    available_bytes=free_bytes,
                )
            )
    return errors


def adjust(plan: Plan, candidates: Sequence[Candidate], reports: Mapping[str, DryRunReport]) -> list[Candidate]:
    """The candidates with what the dry runs (by worker name) taught: free bytes as reported, and a reserve of what the
    stage took beyond its weights and KV."""
    stages = {stage.worker: stage for stage in plan.stages}
    adjusted = []
    for candidate in candidates:
        report, stage = reports.get(candidate.name), stages.get(candidate.name)
        if report is None or stage is None:
            adjusted.append(candidate)
            continue
        beyond_bytes = max(0, report.memory.device_bytes - stage.memory.total_bytes)
        adjusted.append(
            replace(
                candidate,
                free_bytes=candidate.share_of(report.free_bytes),
                reserve_bytes=beyond_bytes + MARGIN_BYTES,
            )
        )
    return adjusted


def does_not_fit(demand: Demand, candidates: Sequence[Candidate]) -> DoesNotFitError:
    """The error for a model that cannot be laid over these candidates, with numbers and what helps."""
    needed_bytes = demand.weights_bytes + demand.kv_bytes
    available_bytes = sum(candidate.capacity_bytes for candidate in candidates)
    each = ", ".join(
        f"{candidate.name} {size(candidate.capacity_bytes)} of {size(candidate.free_bytes)} free"
        for candidate in candidates
    )
    short = needed_bytes > available_bytes
    problem = (
        f"together the workers can give {size(available_bytes)}" if short else "it cannot be cut so that each part fits"
    )
    return DoesNotFitError(
        f"{demand.model} needs {size(needed_bytes)} ({size(demand.weights_bytes)} of weights, "
        f"{size(demand.kv_bytes)} of KV cache for {demand.n_sequences} x {demand.n_ctx} tokens) and {problem} "
        f"(after compute buffers and margin: {each}): {_remedy(demand, needed_bytes - available_bytes)}",
        needed_bytes=needed_bytes,
        available_bytes=available_bytes,
    )


def _remedy(demand: Demand, missing_bytes: int) -> str:
    """What would make it fit."""
    ways = ["add a worker", "use a smaller quantisation"]
    if 0 < missing_bytes < demand.kv_bytes:
        n_ctx = int(demand.n_ctx * (1 - missing_bytes / demand.kv_bytes)) // _CONTEXT_STEP * _CONTEXT_STEP
        if n_ctx >= _CONTEXT_STEP:
            ways.insert(0, f"lower the context to about {n_ctx}")
    elif missing_bytes <= 0:
        ways.insert(0, "lower the context")
    if demand.n_sequences > 1:
        ways.insert(1, "serve fewer sequences in parallel")
    return ", ".join(ways[:-1]) + " or " + ways[-1]


def _manual(
    demand: Demand, candidates: Sequence[Candidate], layer_ranges: Sequence[LayerRange]
) -> list[LayerRange | None]:
    asked = ", ".join(f"{layers.start}-{layers.end}" for layers in layer_ranges)
    ends = [0, *(layers.end for layers in layer_ranges)]
    if [layers.start for layers in layer_ranges] != ends[:-1] or ends[-1] != demand.n_layer:
        raise PlanError(
            f"the layer ranges {asked} do not cover {demand.model}: give half-open ranges that follow each other "
            f"from 0 to {demand.n_layer}"
        )
    if len(layer_ranges) > len(candidates):
        raise PlanError(
            f"{len(layer_ranges)} layer ranges were given for {len(candidates)} workers: give at most one each"
        )
    for candidate, layers in zip(candidates, layer_ranges, strict=False):
        needed_bytes = demand.stage_memory(layers, holds_input=candidate.holds_input).total_bytes
        if needed_bytes > candidate.capacity_bytes:
            raise DoesNotFitError(
                f"{shown(layers)} of {demand.model} need {size(needed_bytes)} and {candidate.name} "
                f"can give {size(candidate.capacity_bytes)} of {size(candidate.free_bytes)} free: give it fewer layers",
                needed_bytes=needed_bytes,
                available_bytes=candidate.capacity_bytes,
            )
    idle = [None] * (len(candidates) - len(layer_ranges))
    return [*layer_ranges, *idle]


def _why_left_out(demand: Demand, candidate: Candidate) -> str:
    smallest = min(layer.weights_bytes + layer.kv_bytes for layer in demand.costs.layers)
    if candidate.capacity_bytes < smallest:
        return (
            f"left out: {candidate.name}: it can give {size(candidate.capacity_bytes)} of "
            f"{size(candidate.free_bytes)} free, and one layer takes {size(smallest)}"
        )
    return f"left out: {candidate.name}: there is no layer for it that fits beside the others'"


@dataclass(frozen=True, slots=True)
class _Cut:
    """The best way so far to give the first layers to the first workers."""

    n_skipped: int
    cost: float
    ranges: tuple[LayerRange | None, ...]

    def beats(self, other: _Cut | None) -> bool:
        return other is None or (self.n_skipped, self.cost) < (other.n_skipped, other.cost)


def _cut(demand: Demand, candidates: Sequence[Candidate]) -> list[LayerRange | None]:
    """A range for each candidate, None for one left out; as few left out as possible."""
    n_layer, costs = demand.n_layer, demand.costs
    sums = [0, *accumulate(layer.weights_bytes + layer.kv_bytes for layer in costs.layers)]
    best: list[_Cut | None] = [_Cut(0, 0.0, ())] + [None] * n_layer
    for candidate in candidates:
        capacity = candidate.capacity_bytes
        input_bytes = costs.input_bytes if candidate.holds_input else 0
        after: list[_Cut | None] = [None] * (n_layer + 1)
        for start, cut in enumerate(best):
            if cut is None:
                continue
            skipped = _Cut(cut.n_skipped + 1, cut.cost, (*cut.ranges, None))
            if skipped.beats(after[start]):
                after[start] = skipped
            for end in range(start + 1, n_layer + 1):
                n_bytes = sums[end] - sums[start] + (input_bytes if start == 0 else 0)
                if n_bytes > capacity:
                    break
                n_bytes += costs.output_bytes if end == n_layer else 0
                if n_bytes > capacity:
                    break
                cost = cut.cost + n_bytes * n_bytes / max(1, capacity)
                given = _Cut(cut.n_skipped, cost, (*cut.ranges, LayerRange(start, end)))
                if given.beats(after[end]):
                    after[end] = given
        best = after
    whole = best[n_layer]
    if whole is None:
        raise does_not_fit(demand, candidates)
    return list(whole.ranges)
