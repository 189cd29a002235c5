# SPDX-License-Identifier: MIT
"""A plan for an inventory: the planner's own, with data sheets in the place of measurements. Asks no worker and looks
for none; only the model's header is read, here. Called by `caravan plan --inventory`.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

from coordinator.candidates import Candidate
from coordinator.confirming import ModelOrder, measure
from coordinator.errors import PlanError
from coordinator.events import OnProgress, ignore
from coordinator.inventory.estimates import (
    BANDWIDTH_EFFICIENCY,
    COMPUTE_EFFICIENCY,
    candidates_of_inventory,
    links_of_inventory,
)
from coordinator.inventory.machines import Inventory
from coordinator.inventory.reading import read_inventory
from coordinator.opening import native_errors, order_of, read_source
from coordinator.options import MeshOptions
from coordinator.plan import Demand, Plan
from coordinator.planner import make_plan
from native import LayerRange, dry_run


async def plan_inventory(options: MeshOptions, path: Path, on_progress: OnProgress = ignore) -> Plan:
    """The plan for the machines of that file; `options` say which model and how, not whom to ask.

    Raises:
        InventoryError: The file cannot be used.
        CaravanError: As `plan_mesh`.
    """
    if options.replicas != 1:
        raise PlanError("an inventory is planned for one line: leave out --replicas")
    inventory = await asyncio.to_thread(read_inventory, path)
    with native_errors(), contextlib.closing(await read_source(options, on_progress)) as source:
        order = order_of(source, options)
        demand = await measure(order)
        compute_bytes = await _compute_bytes(order, demand)
    candidates = candidates_of_inventory(
        inventory, order.layout, demand, n_ubatch=order.params.n_ubatch, compute_bytes=compute_bytes
    )
    plan = make_plan(
        demand,
        _wanted(candidates, options),
        wishes=options.wishes,
        links=links_of_inventory(inventory),
        notes=inventory.assumed,
    )
    memory = {stage.worker: replace(stage.memory, compute_bytes=compute_bytes) for stage in plan.stages}
    return _without_made_up(replace(plan.with_memory(memory), basis=_basis(inventory)), inventory)


async def _compute_bytes(order: ModelOrder, demand: Demand) -> int:
    """The compute buffers that any stage would need on this machine's CPU: those of the whole model, less what its
    output layer adds."""
    layers = LayerRange(0, order.layout.n_layer)
    memory = await asyncio.to_thread(dry_run, order.layout.path, layers, "CPU", order.params)
    return max(0, memory.compute_bytes - demand.output_compute_bytes)


def _basis(inventory: Inventory) -> str:
    return (
        f"estimates from data sheets ({inventory.source}), not measurements: {BANDWIDTH_EFFICIENCY:.0%} of peak memory "
        f"bandwidth, {COMPUTE_EFFICIENCY:.0%} of peak compute; no worker was asked"
    )


def _wanted(candidates: list[Candidate], options: MeshOptions) -> list[Candidate]:
    names = [candidate.name for candidate in candidates]
    unknown = sorted({*options.only, *options.exclude} - {*names})
    if unknown:
        raise PlanError(f"no device is named {', '.join(unknown)}; the inventory has: {', '.join(names)}")
    kept = [candidate for candidate in candidates if options.wants(candidate.name)]
    if not kept:
        raise PlanError(f"of the inventory's devices ({', '.join(names)}) none may take part: exclude fewer")
    return kept


def _without_made_up(plan: Plan, inventory: Inventory) -> Plan:
    """Without times to first token where a stage's compute is not known: none is better than a made-up one."""
    unknown = {device.name for device in inventory.devices if device.flops is None}
    alternatives = tuple(
        replace(each, prediction=replace(each.prediction, ttft_s=None))
        if unknown.intersection(name for name, _ in each.stages)
        else each
        for each in plan.alternatives
    )
    missing = [stage.worker for stage in plan.stages if stage.worker in unknown]
    if not missing or plan.prediction is None:
        return replace(plan, alternatives=alternatives)
    note = (
        f"no time to first token is told, and what is told of many streams is the most there can be: the compute of "
        f"{', '.join(missing)} is not known (add compute to the device)"
    )
    prediction = replace(plan.prediction, ttft_s=None)
    return replace(plan, prediction=prediction, alternatives=alternatives, notes=(*plan.notes, note))
