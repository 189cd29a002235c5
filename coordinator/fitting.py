# SPDX-License-Identifier: MIT
"""Whether a plan fits: what the workers' dry runs said of it, and what that teaches the next plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.candidates import MARGIN_BYTES, Candidate
from coordinator.errors import DoesNotFitError
from coordinator.plan import Demand, Plan, Stage, in_ram, shown
from coordinator.remedies import remedies
from coordinator.workers import StageMemory
from native import LayerRange
from protos.sizes import size


@dataclass(frozen=True, slots=True)
class DryRunReport:
    """What a worker's dry run of its stage said: the stage's bytes, and those free on the device when asked."""

    memory: StageMemory
    free_bytes: int


def misfits(plan: Plan, candidates: Sequence[Candidate], reports: Mapping[str, DryRunReport]) -> list[DoesNotFitError]:
    """An error for each stage that its worker's dry run (by worker name) says does not fit with the margin, on its
    device or beside it."""
    named = {candidate.name: candidate for candidate in candidates}
    errors = []
    for stage in plan.stages:
        memory, candidate = reports[stage.worker].memory, named[stage.worker]
        free_bytes = candidate.share_of(reports[stage.worker].free_bytes)
        if memory.device_bytes + MARGIN_BYTES > free_bytes:
            errors.append(_misfit(plan, stage, memory, memory.device_bytes, free_bytes, "free"))
        elif stage.n_cpu_moe and memory.host_bytes + MARGIN_BYTES > candidate.host_free_bytes:
            errors.append(_misfit(plan, stage, memory, memory.host_bytes, candidate.host_free_bytes, "of RAM to use"))
    return errors


def _misfit(
    plan: Plan, stage: Stage, memory: StageMemory, needed_bytes: int, available_bytes: int, what: str
) -> DoesNotFitError:
    hosted = f", with {in_ram(stage.n_cpu_moe)}" if stage.n_cpu_moe else ""
    return DoesNotFitError(
        f"{shown(stage.layers)} of {plan.demand.model}{hosted} take {size(needed_bytes)} on {stage.worker} "
        f"({size(memory.weights_bytes)} of weights, {size(memory.kv_bytes)} of KV cache, "
        f"{size(memory.compute_bytes)} of compute buffers) and it has {size(available_bytes)} {what}: "
        f"{remedies(plan.demand, needed_bytes - available_bytes)}",
        needed_bytes=needed_bytes,
        available_bytes=available_bytes,
    )


def adjust(plan: Plan, candidates: Sequence[Candidate], reports: Mapping[str, DryRunReport]) -> list[Candidate]:
    """The candidates with what the dry runs (by worker name) taught: free bytes as reported, and a reserve of the most
    that a stage took beyond its weights and KV, on the device and beside it. It only grows, so that plans settle."""
    stages = {stage.worker: stage for stage in plan.stages}
    adjusted = []
    for candidate in candidates:
        report, stage = reports.get(candidate.name), stages.get(candidate.name)
        if report is None or stage is None:
            adjusted.append(candidate)
            continue
        adjusted.append(
            replace(
                candidate,
                free_bytes=candidate.share_of(report.free_bytes),
                reserve_bytes=max(candidate.reserve_bytes, _beyond_bytes(plan.demand, stage, report.memory, candidate)),
                host_reserve_bytes=max(
                    candidate.host_reserve_bytes, _host_beyond_bytes(plan.demand, stage, report.memory, candidate)
                ),
            )
        )
    return adjusted


def _beyond_bytes(demand: Demand, stage: Stage, memory: StageMemory, candidate: Candidate) -> int:
    """What a stage takes on its device beyond what the planner reckons with, and the margin."""
    beyond = beyond_bytes(demand, stage.layers, memory, holds_input=candidate.holds_input, n_cpu_moe=stage.n_cpu_moe)
    return beyond + MARGIN_BYTES


def _host_beyond_bytes(demand: Demand, stage: Stage, memory: StageMemory, candidate: Candidate) -> int:
    """The same beside the device, where a GPU's first stage has the embedding too; 0 without experts there."""
    if not stage.n_cpu_moe:
        return 0
    reckoned_bytes = demand.stage_memory(stage.layers, n_cpu_moe=stage.n_cpu_moe).host_bytes
    if stage.layers.start == 0 and not candidate.holds_input:
        reckoned_bytes += demand.costs.input_bytes
    return max(0, memory.host_bytes - reckoned_bytes) + MARGIN_BYTES


def beyond_bytes(
    demand: Demand, layers: LayerRange, memory: StageMemory, *, holds_input: bool, n_cpu_moe: int = 0
) -> int:
    """What a stage takes on its device beyond what the planner reckons with for these layers."""
    reckoned_bytes = demand.stage_memory(layers, holds_input=holds_input, n_cpu_moe=n_cpu_moe).device_bytes
    if layers.end == demand.n_layer:
        reckoned_bytes += demand.output_compute_bytes
    return max(0, memory.device_bytes - reckoned_bytes)
