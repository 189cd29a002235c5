# SPDX-License-Identifier: MIT
"""What is looked for and what was found: values of the planner and the search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto

from native import LayerRange

Stages = tuple[tuple[int, LayerRange], ...]
"""Index of the machine and its range, in line order."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One worker as the search sees it.

    What does not fit its device may lie in system memory, if that is experts: those of as few of the first layers of
    its range as will do (`Problem.experts_from`).

    Attributes:
        capacity_bytes: For weights and KV.
        input_bytes: Taken beside its layers if it is the first of the line.
        output_bytes: Taken beside its layers if it is the last.
        layer_s: Of each layer of the model, for the batch that the objective is about.
        output_s: Of the output layer.
        step_s: Of every step, whatever its layers.
        pinned: It takes part with exactly this range.
        within: It may hold layers of these only.
        is_main: It takes part, as the last of the line; of one machine at most.
        host_bytes: Of system memory, for experts.
        host_input_bytes: Taken there beside any experts if it is the first of the line.
        host_layer_s: As `layer_s`, with the layer's experts in system memory; None: no different.
    """

    capacity_bytes: int
    input_bytes: int
    output_bytes: int
    layer_s: tuple[float, ...]
    output_s: float
    step_s: float
    pinned: LayerRange | None = None
    within: LayerRange | None = None
    is_main: bool = False
    host_bytes: int = 0
    host_input_bytes: int = 0
    host_layer_s: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        times_s = (*self.layer_s, *(self.host_layer_s or ()), self.output_s, self.step_s)
        if not all(0 <= time_s < math.inf for time_s in times_s):
            raise ValueError("a machine's times are finite and not negative")


@dataclass(frozen=True, slots=True)
class Problem:
    """A model and the machines for it. No time is negative; a hop, entry or exit of infinity says that there is no way.

    Attributes:
        layer_bytes: Weights and KV of each layer.
        expert_bytes: Of these, each layer's experts, which may lie in system memory; empty: none may.
        hop_s: From each machine to each other one, as [from][to].
        entry_s: From the coordinator to each machine.
        exit_s: From each machine back to the coordinator.
        max_stages: At most so many machines take part.
    """

    layer_bytes: tuple[int, ...]
    machines: tuple[Machine, ...]
    hop_s: tuple[tuple[float, ...], ...]
    entry_s: tuple[float, ...]
    exit_s: tuple[float, ...]
    max_stages: int | None = None
    expert_bytes: tuple[int, ...] = ()

    @property
    def most_stages(self) -> int:
        """No line has more."""
        most = min(len(self.machines), len(self.layer_bytes))
        return most if self.max_stages is None else max(0, min(most, self.max_stages))

    def needed_bytes(self, index: int, layers: LayerRange) -> int:
        """What these layers take of a machine, experts and all."""
        machine = self.machines[index]
        n_bytes = sum(self.layer_bytes[layers.start : layers.end])
        n_bytes += machine.input_bytes if layers.start == 0 else 0
        return n_bytes + (machine.output_bytes if layers.end == len(self.layer_bytes) else 0)

    def experts_from(self, index: int, layers: LayerRange) -> int | None:
        """The layer from which on experts lie on the machine's device; those of the layers before it, as few as will
        do, in system memory. None if the range does not fit like that."""
        machine = self.machines[index]
        over_bytes = self.needed_bytes(index, layers) - machine.capacity_bytes
        if over_bytes <= 0:
            return layers.start
        held_bytes = machine.host_input_bytes if layers.start == 0 else 0
        for layer in range(layers.start, layers.end if self.expert_bytes else layers.start):
            over_bytes -= self.expert_bytes[layer]
            held_bytes += self.expert_bytes[layer]
            if over_bytes <= 0:
                return layer + 1 if held_bytes <= machine.host_bytes else None
        return None


class Objective(Enum):
    """What is to be least; what ties is decided by the other one."""

    LATENCY = auto()
    """The sum of stages, hops, entry and exit."""
    THROUGHPUT = auto()
    """The slowest stage."""


@dataclass(frozen=True, slots=True)
class Solution:
    """A line for a problem.

    Attributes:
        stages: Together they cover all layers, without gap or overlap.
        bottleneck_s: Of the slowest stage.
        experts_from: Of each stage, the layer from which on experts lie on its device.
    """

    stages: Stages
    latency_s: float
    bottleneck_s: float
    experts_from: tuple[int, ...]
