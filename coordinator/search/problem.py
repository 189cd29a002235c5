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

    Attributes:
        capacity_bytes: For weights and KV.
        input_bytes: Taken beside its layers if it is the first of the line.
        output_bytes: Taken beside its layers if it is the last.
        layer_s: Of each layer of the model, for the batch that the objective is about.
        output_s: Of the output layer.
        step_s: Of every step, whatever its layers.
        pinned: It takes part with exactly this range.
    """

    capacity_bytes: int
    input_bytes: int
    output_bytes: int
    layer_s: tuple[float, ...]
    output_s: float
    step_s: float
    pinned: LayerRange | None = None

    def __post_init__(self) -> None:
        if not all(0 <= time_s < math.inf for time_s in (*self.layer_s, self.output_s, self.step_s)):
            raise ValueError("a machine's times are finite and not negative")


@dataclass(frozen=True, slots=True)
class Problem:
    """A model and the machines for it. No time is negative; a hop, entry or exit of infinity says that there is no way.

    Attributes:
        layer_bytes: Weights and KV of each layer.
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

    @property
    def most_stages(self) -> int:
        """No line has more."""
        most = min(len(self.machines), len(self.layer_bytes))
        return most if self.max_stages is None else max(0, min(most, self.max_stages))


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
    """

    stages: Stages
    latency_s: float
    bottleneck_s: float
