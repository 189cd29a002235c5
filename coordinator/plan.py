# SPDX-License-Identifier: MIT
"""A plan: which worker holds which layers, and how it explains itself to a person. Values that the planner makes and
the rest of the room reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from coordinator.workers import StageMemory
from native import LayerCosts, LayerRange


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be laid out, and what it is called in messages.

    Attributes:
        costs: Exact bytes per layer for this context.
        n_ctx: Tokens per sequence.
        n_sequences: Parallel sequences.
    """

    model: str
    costs: LayerCosts
    n_ctx: int
    n_sequences: int

    @property
    def n_layer(self) -> int:
        """Layers of the model, without the output layer."""
        return len(self.costs.layers)

    @property
    def weights_bytes(self) -> int:
        """Of all layers, input and output."""
        costs = self.costs
        return costs.input_bytes + costs.output_bytes + sum(layer.weights_bytes for layer in costs.layers)

    @property
    def kv_bytes(self) -> int:
        """Of all layers and sequences."""
        return sum(layer.kv_bytes for layer in self.costs.layers)

    def stage_memory(self, layers: LayerRange, *, holds_input: bool = True) -> StageMemory:
        """Weights and KV of the stage with these layers."""
        costs = self.costs
        own = costs.layers[layers.start : layers.end]
        weights_bytes = sum(layer.weights_bytes for layer in own)
        if layers.start == 0 and holds_input:
            weights_bytes += costs.input_bytes
        if layers.end == self.n_layer:
            weights_bytes += costs.output_bytes
        return StageMemory(weights_bytes, sum(layer.kv_bytes for layer in own))


@dataclass(frozen=True, slots=True)
class Stage:
    """A worker with its layer range.

    Attributes:
        free_bytes: On its device when it was asked.
        memory: What the stage takes; with compute buffers once the worker's dry run has confirmed it.
    """

    worker: str
    address: str
    device: str
    layers: LayerRange
    memory: StageMemory
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The layer ranges given to workers, in line order.

    Attributes:
        stages: Together they cover the model's layers exactly, without gap or overlap.
        notes: Sentences about who was left out and why, and what else is to be known.
    """

    demand: Demand
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()

    def explain(self) -> str:
        """The plan for a person: one line for the model, one per stage, one per note."""
        demand = self.demand
        lines = [
            f"{demand.model}: {demand.n_layer} layers, {size(demand.weights_bytes)} of weights, "
            f"{size(demand.kv_bytes)} of KV cache for {demand.n_sequences} x {demand.n_ctx} tokens"
        ]
        width = max(len(stage.worker) for stage in self.stages)
        lines += [self._explain_stage(stage, width) for stage in self.stages]
        lines += list(self.notes)
        return "\n".join(lines)

    def _explain_stage(self, stage: Stage, width: int) -> str:
        memory = stage.memory
        extras = ["embedding"] if stage.layers.start == 0 else []
        extras += ["output"] if stage.layers.end == self.demand.n_layer else []
        holds = " + ".join([shown(stage.layers), *extras])
        compute = f" + {size(memory.compute_bytes)} compute" if memory.compute_bytes else ""
        return (
            f"  {stage.worker:<{width}}  {holds}: {size(memory.weights_bytes)} weights + {size(memory.kv_bytes)} KV"
            f"{compute} of {size(stage.free_bytes)} free on {stage.device}"
        )

    def with_memory(self, memory: Mapping[str, StageMemory]) -> Plan:
        """The same plan with the bytes that workers (by name) reported."""
        stages = tuple(replace(stage, memory=memory.get(stage.worker, stage.memory)) for stage in self.stages)
        return replace(self, stages=stages)


def shown(layers: LayerRange) -> str:
    """A layer range for a person: "layer 0", "layers 1 to 7"."""
    return f"layers {layers.start} to {layers.end - 1}" if len(layers) > 1 else f"layer {layers.start}"


def size(n_bytes: int) -> str:
    """Bytes for a person: "512 KiB", "3.6 GiB"."""
    value, unit = float(n_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
