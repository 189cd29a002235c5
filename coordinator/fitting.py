# SPDX-License-Identifier: MIT
"""Whether a plan fits: what the workers' dry runs said of it, what that teaches the next plan, and what to say (with
numbers, and what would help) when nothing fits. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.candidates import MARGIN_BYTES, Candidate
from coordinator.errors import DoesNotFitError
from coordinator.plan import Demand, Plan, shown, size
from coordinator.workers import StageMemory
from native import LayerRange

_CONTEXT_STEP = 256
"""llama.cpp rounds a context up to this many tokens."""


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
    """The candidates with what the dry runs (by worker name) taught: free bytes as reported, and a reserve of the most
    that a stage took beyond its weights and KV. It only grows, so that plans settle."""
    stages = {stage.worker: stage for stage in plan.stages}
    adjusted = []
    for candidate in candidates:
        report, stage = reports.get(candidate.name), stages.get(candidate.name)
        if report is None or stage is None:
            adjusted.append(candidate)
            continue
        beyond = beyond_bytes(plan.demand, stage.layers, report.memory, holds_input=candidate.holds_input)
        adjusted.append(
            replace(
                candidate,
                free_bytes=candidate.share_of(report.free_bytes),
                reserve_bytes=max(candidate.reserve_bytes, beyond + MARGIN_BYTES),
            )
        )
    return adjusted


def beyond_bytes(demand: Demand, layers: LayerRange, memory: StageMemory, *, holds_input: bool) -> int:
    """What a stage takes on its device beyond what the planner reckons with for these layers."""
    reckoned_bytes = demand.stage_memory(layers, holds_input=holds_input).total_bytes
    if layers.end == demand.n_layer:
        reckoned_bytes += demand.output_compute_bytes
    return max(0, memory.device_bytes - reckoned_bytes)


def does_not_fit(demand: Demand, candidates: Sequence[Candidate], *, most: int | None = None) -> DoesNotFitError:
    """The error for a model that cannot be laid over these candidates, with numbers and what helps.

    Args:
        most: Stages that the user allows; None: any number.
    """
    needed_bytes = demand.weights_bytes + demand.kv_bytes
    capacities = sorted((candidate.capacity_bytes for candidate in candidates), reverse=True)
    available_bytes = sum(capacities[:most])
    each = ", ".join(
        f"{candidate.name} {size(candidate.capacity_bytes)} of {size(candidate.free_bytes)} free"
        for candidate in candidates
    )
    who = (
        "together the workers" if most is None else "the largest worker" if most == 1 else f"the {most} largest workers"
    )
    problem = (
        f"{who} can give {size(available_bytes)}, {size(needed_bytes - available_bytes)} too little"
        if needed_bytes > available_bytes
        else "it cannot be cut so that each part fits"
    )
    return DoesNotFitError(
        f"{demand.model} needs {size(needed_bytes)} ({size(demand.weights_bytes)} of weights, "
        f"{size(demand.kv_bytes)} of KV cache for {demand.n_sequences} x {demand.n_ctx} tokens) and {problem} "
        f"(after compute buffers and margin: {each}): {_remedy(demand, needed_bytes - available_bytes)}",
        needed_bytes=needed_bytes,
        available_bytes=available_bytes,
    )


def _remedy(demand: Demand, missing_bytes: int) -> str:
    """The three cheapest ways to make it fit, with numbers where they are known."""
    ways = [*_smaller_caches(demand, missing_bytes), *_more_room(demand, missing_bytes)][:3]
    return ", ".join(ways[:-1]) + " or " + ways[-1]


def _smaller_caches(demand: Demand, missing_bytes: int) -> list[str]:
    """Ways that cost context or parallel sequences."""
    if missing_bytes <= 0:
        return ["lower the context"]
    if missing_bytes >= demand.kv_bytes:
        return []
    left = 1 - missing_bytes / demand.kv_bytes
    ways = []
    n_ctx = int(demand.n_ctx * left) // _CONTEXT_STEP * _CONTEXT_STEP
    if n_ctx >= _CONTEXT_STEP:
        ways.append(f"lower the context to about {n_ctx} tokens")
    n_sequences = int(demand.n_sequences * left)
    if n_sequences:
        ways.append(f"serve {n_sequences} in parallel instead of {demand.n_sequences}")
    return ways


def _more_room(demand: Demand, missing_bytes: int) -> list[str]:
    """Ways that cost quality or hardware."""
    if missing_bytes <= 0:
        return ["use a smaller quantisation", "add a worker"]
    ways = []
    if missing_bytes < demand.weights_bytes:
        ways.append(f"use a quantisation of at most {size(demand.weights_bytes - missing_bytes)}")
    return [*ways, f"add a worker with {size(missing_bytes + MARGIN_BYTES)} free or more"]
