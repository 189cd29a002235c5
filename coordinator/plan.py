# SPDX-License-Identifier: MIT
"""A plan: which worker holds which layers, and how it explains itself to a person. Values that the planner makes and
the rest of the room reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.prediction import PROMPT_TOKENS, Prediction
from coordinator.workers import StageMemory
from native import LayerCosts, LayerRange
from protos.sizes import size


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be laid out, and what it is called in messages.

    Attributes:
        costs: Exact bytes per layer for this context.
        n_ctx: Tokens per sequence.
        n_sequences: Parallel sequences.
        n_batch: Tokens per frame, at most.
        n_embd: Floats of a hidden state.
        output_compute_bytes: What the output layer adds to the compute buffers of the stage that holds it; below 0 if
            the last stage needs less of them than others.
        bits_per_weight: On the average of all its tensors; 0: not known.
        compact_kv_bytes: What the KV cache would take as q8_0; None: not known, or no less.
        identity: The model's, by its header; empty if it is not known.
        writes: Whether it makes text, so that its speed is that of streams.
    """

    model: str
    costs: LayerCosts
    n_ctx: int
    n_sequences: int
    n_batch: int = 512
    n_embd: int = 0
    output_compute_bytes: int = 0
    bits_per_weight: float = 0.0
    compact_kv_bytes: int | None = None
    identity: str = ""
    writes: bool = True

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

    @property
    def expert_bytes(self) -> int:
        """Of all layers."""
        return sum(layer.expert_bytes for layer in self.costs.layers)

    def stage_memory(self, layers: LayerRange, *, holds_input: bool = True, n_cpu_moe: int = 0) -> StageMemory:
        """Weights and KV of the stage with these layers.

        Args:
            n_cpu_moe: Of the first so many of them that have experts, these lie in system memory.
        """
        costs = self.costs
        own = costs.layers[layers.start : layers.end]
        weights_bytes = sum(layer.weights_bytes for layer in own)
        if layers.start == 0 and holds_input:
            weights_bytes += costs.input_bytes
        if layers.end == self.n_layer:
            weights_bytes += costs.output_bytes
        expert_bytes = [layer.expert_bytes for layer in own if layer.expert_bytes]
        kv_bytes = sum(layer.kv_bytes for layer in own)
        return StageMemory(weights_bytes, kv_bytes, host_bytes=sum(expert_bytes[:n_cpu_moe]))

    def n_cpu_moe(self, layers: LayerRange, experts_from: int) -> int:
        """How many of the range's layers before that one have experts."""
        return sum(layer.expert_bytes > 0 for layer in self.costs.layers[layers.start : experts_from])


@dataclass(frozen=True, slots=True)
class Stage:
    """A worker with its layer range.

    Attributes:
        free_bytes: On its device when it was asked.
        memory: What the stage takes; with compute buffers once the worker's dry run has confirmed it.
        n_cpu_moe: Of the first so many of its layers that have experts, these lie in system memory.
        host: Its machine; empty if that is not known.
        speed_factor: How many times as long as the device was measured to take the prediction counts.
    """

    worker: str
    address: str
    device: str
    layers: LayerRange
    memory: StageMemory
    free_bytes: int
    n_cpu_moe: int = 0
    host: str = ""
    speed_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another line over the same workers, for comparison.

    Attributes:
        label: What it would be for.
        stages: Workers by name with their layer ranges, in line order.
        n_cpu_moe: Of each stage, of how many of its first layers with experts these lie in system memory.
        size_bytes: Of the model's weights, where they are others; None: the plan's.
    """

    label: str
    stages: tuple[tuple[str, LayerRange], ...]
    prediction: Prediction
    n_cpu_moe: tuple[int, ...] = ()
    size_bytes: int | None = None

    def explain(self) -> str:
        """One line for a person."""
        label = self.label if self.size_bytes is None else f"{self.label}: {size(self.size_bytes)}"
        hosted = [f" with {in_ram(n)}" if n else "" for n in self.n_cpu_moe or (0,) * len(self.stages)]
        ranges = [f"{name} {layers.start}-{layers.end - 1}" for name, layers in self.stages]
        laid = ", ".join(own + more for own, more in zip(ranges, hosted, strict=True))
        return f"{label} ({laid}): {_speeds(self.prediction)}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The layer ranges given to workers, in line order.

    Attributes:
        stages: Together they cover the model's layers exactly, without gap or overlap.
        notes: Sentences about what else is to be known.
        left_out: Who could have taken part and does not, with the reason.
        headline: The first thing to know, such as why the model is not split; empty if there is no such thing.
        prediction: None where a device's speed is not known.
        basis: What its figures rest on, if not on measurements; told before all else.
    """

    demand: Demand
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()
    headline: str = ""
    prediction: Prediction | None = None
    alternatives: tuple[Alternative, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    basis: str = ""

    @property
    def ranges(self) -> dict[str, LayerRange]:
        """The layers of each worker, by its name."""
        return {stage.worker: stage.layers for stage in self.stages}

    @property
    def sentences(self) -> tuple[str, ...]:
        """The notes, and one for everybody left out."""
        return (*self.notes, *(f"left out: {name}: {reason}" for name, reason in self.left_out))

    def explain(self) -> str:
        """The plan for a person: its basis, the headline, the model, a row per stage, predictions, a line per note."""
        demand = self.demand
        lines = [line for line in (self.basis, self.headline) if line]
        lines.append(
            f"{demand.model}: {demand.n_layer} layers, {size(demand.weights_bytes)} of weights, "
            f"{size(demand.kv_bytes)} of KV cache for {demand.n_sequences} x {demand.n_ctx} tokens"
        )
        lines += ["  " + row for row in columns([self._head(), *map(self._row, range(len(self.stages)))])]
        if demand.writes:
            lines += [] if self.prediction is None else [f"predicted: {_speeds(self.prediction)}"]
            lines += [f"or {alternative.explain()}" for alternative in self.alternatives]
        lines += self.sentences
        return "\n".join(lines)

    def _head(self) -> tuple[str, ...]:
        return _HEAD if self.prediction is None else (*_HEAD, "per token")

    def _row(self, number: int) -> tuple[str, ...]:
        stage, memory = self.stages[number], self.stages[number].memory
        layers = f"{stage.layers.start}-{stage.layers.end - 1}"
        extras = ["embedding"] if stage.layers.start == 0 else []
        extras += ["output"] if stage.layers.end == self.demand.n_layer else []
        hosted = f", {in_ram(stage.n_cpu_moe)}" if stage.n_cpu_moe else ""
        cells = (
            stage.worker,
            stage.device,
            " + ".join([layers, *extras]) + hosted,
            size(memory.weights_bytes),
            size(memory.kv_bytes),
            size(memory.compute_bytes),
            f"{size(max(0, stage.free_bytes - memory.device_bytes))} of {size(stage.free_bytes)}",
        )
        return cells if self.prediction is None else (*cells, f"{self.prediction.stage_s[number] * 1000:.1f} ms")

    def noting(self, notes: Iterable[str]) -> Plan:
        """The same plan with these notes too."""
        return replace(self, notes=(*self.notes, *notes))

    def besides(self, workers: Collection[str]) -> Plan:
        """The same plan where other lines have these workers: then none of them is left out."""
        return replace(self, left_out=tuple(entry for entry in self.left_out if entry[0] not in workers))

    def with_memory(self, memory: Mapping[str, StageMemory]) -> Plan:
        """The same plan with the bytes that workers (by name) reported."""
        stages = tuple(replace(stage, memory=memory.get(stage.worker, stage.memory)) for stage in self.stages)
        return replace(self, stages=stages)


_HEAD = ("worker", "device", "layers", "weights", "KV cache", "compute", "left free")


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _speeds(prediction: Prediction) -> str:
    many = ""
    if prediction.parallel > 1:
        many = f", {prediction.parallel_tokens_per_s:.1f} for {prediction.parallel} together"
    first = ""
    if prediction.ttft_s is not None:
        after = f"{prediction.ttft_s:.1f} s" if prediction.ttft_s >= 1 else f"{prediction.ttft_s * 1000:.0f} ms"
        first = f"; first token of a long prompt ({PROMPT_TOKENS} tokens) after {after}"
    return f"{prediction.tokens_per_s:.1f} tokens per second for one stream{many}{first}"


def in_ram(n_cpu_moe: int) -> str:
    """What lies in system memory, for a person."""
    return f"experts of {n_cpu_moe} layer{'s' if n_cpu_moe > 1 else ''} in RAM"


def shown(layers: LayerRange) -> str:
    """A layer range for a person: "layer 0", "layers 1 to 7"."""
    return f"layers {layers.start} to {layers.end - 1}" if len(layers) > 1 else f"layer {layers.start}"
