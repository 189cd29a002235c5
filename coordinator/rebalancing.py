# SPDX-License-Identifier: MIT
"""Other layer ranges for a line that runs: the same workers in the same order, cut where its slowest stage is fastest
by what frames took there. Pure; asked by `bottleneck`.

A stage is taken to need time in proportion to the bytes of its layers' weights, and the last one of the output layer's
too: that is what decode reads, and what a prompt is multiplied with (there the output layer counts nothing, since a
prompt needs one row of it). Each stage's seconds per byte are those measured; what a worker does to any frame whatever
its layers is spread over these. A frame period is what the slowest stage takes, or what the trip takes over the frames
in flight, whichever is more.

A stage's memory is what its worker's dry run said, with other layers' weights and KV cache in it, within what was free
when the line was planned. Lines with experts in system memory are left as they are: there more than layers would move.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

from coordinator.candidates import MARGIN_BYTES
from coordinator.plan import Plan
from coordinator.waterfall import FrameMeans, LineFigures
from native import LayerRange

WORTH = 1.05
"""Times as fast that other ranges have to be: figures are no better than that."""

_MIN_FRAMES = 8
"""Fewer say little about a stage."""

_Cut = tuple[LayerRange, ...]


@dataclass(frozen=True, slots=True)
class Rebalanced:
    """Other layer ranges.

    Attributes:
        stages: Workers by name with their layer ranges, in line order.
        gain: How many times as many frames the line will compute.
    """

    stages: tuple[tuple[str, LayerRange], ...]
    gain: float

    @property
    def option(self) -> str | None:
        """What to type for it; None where a worker's name does not go into such a list."""
        if any("," in name for name, _ in self.stages):
            return None
        ranges = ",".join(f"{name}={_bounds(layers)}" for name, layers in self.stages)
        return f"--layers {shlex.quote(ranges)}"


@dataclass(frozen=True, slots=True)
class Rebalancing:
    """What came of looking for other ranges.

    Attributes:
        found: Those worth it; None: there are none.
        lacks_memory: There would be, had the workers the memory.
    """

    found: Rebalanced | None = None
    lacks_memory: bool = False


def rebalance(plan: Plan, figures: LineFigures) -> Rebalancing | None:
    """Looks for better ranges; None where the figures do not allow to say."""
    if len(plan.stages) < 2 or any(stage.n_cpu_moe for stage in plan.stages):
        return None
    means = main_kind(figures)
    if means.n_frames < _MIN_FRAMES or not all(seconds > 0 for seconds in means.stage_s):
        return None
    line = _Line.of(plan, means, counts_output=means is figures.decode)
    trip_s = means.beside_s
    n_in_flight = max(1.0, figures.mean_in_flight)
    before_s = line.period_s(line.cut, trip_s, n_in_flight)

    def worth(fits: Callable[[int, int, int], bool]) -> Rebalanced | None:
        cut = line.best_cut(fits)
        gain = 0.0 if cut is None else before_s / line.period_s(cut, trip_s, n_in_flight)
        if cut is None or gain < WORTH:
            return None
        return Rebalanced(tuple((stage.worker, own) for stage, own in zip(plan.stages, cut, strict=True)), gain)

    found = worth(line.fits)
    return Rebalancing(found, found is None and worth(lambda _stage, _start, _end: True) is not None)


def main_kind(figures: LineFigures) -> FrameMeans:
    """The kind of frames that took most of the stages' time."""
    kinds = (figures.decode, figures.prefill)
    return max(kinds, key=lambda means: means.n_frames * sum(means.stage_s))


@dataclass(frozen=True, slots=True)
class _Line:
    """A line's stages as sums over layers: entry n is of the layers before layer n.

    Attributes:
        cut: As it is now.
        rates: Seconds per byte of weights of each stage.
        weights: Bytes.
        memory: Bytes of weights and KV cache.
        room: Bytes that each stage's layers may take.
    """

    cut: _Cut
    rates: tuple[float, ...]
    weights: tuple[int, ...]
    memory: tuple[int, ...]
    output_bytes: int
    room: tuple[int, ...]

    @classmethod
    def of(cls, plan: Plan, means: FrameMeans, *, counts_output: bool) -> _Line:
        layers = plan.demand.costs.layers
        weights = tuple(accumulate((layer.weights_bytes for layer in layers), initial=0))
        memory = tuple(accumulate((layer.weights_bytes + layer.kv_bytes for layer in layers), initial=0))
        output_bytes = plan.demand.costs.output_bytes if counts_output else 0
        cut = tuple(stage.layers for stage in plan.stages)
        last = len(cut) - 1
        rates = []
        for number, (own, seconds) in enumerate(zip(cut, means.stage_s, strict=True)):
            n_bytes = weights[own.end] - weights[own.start] + (output_bytes if number == last else 0)
            rates.append(seconds / max(1, n_bytes))
        room = []
        for stage in plan.stages:
            own_bytes = memory[stage.layers.end] - memory[stage.layers.start]
            left_bytes = stage.free_bytes - MARGIN_BYTES - stage.memory.device_bytes
            room.append(own_bytes + max(0, left_bytes))
        return cls(cut, tuple(rates), weights, memory, output_bytes, tuple(room))

    def stage_s(self, stage: int, start: int, end: int) -> float:
        """Seconds of a frame on a stage with these layers."""
        output_bytes = self.output_bytes if stage == len(self.cut) - 1 else 0
        return self.rates[stage] * (self.weights[end] - self.weights[start] + output_bytes)

    def fits(self, stage: int, start: int, end: int) -> bool:
        """Whether a stage has the memory for these layers."""
        return self.memory[end] - self.memory[start] <= self.room[stage]

    def period_s(self, cut: _Cut, trip_s: float, n_in_flight: float) -> float:
        """Seconds from one frame to the next."""
        seconds = [self.stage_s(number, own.start, own.end) for number, own in enumerate(cut)]
        return max(max(seconds), (sum(seconds) + trip_s) / n_in_flight)

    def best_cut(self, fits: Callable[[int, int, int], bool]) -> _Cut | None:
        """The ranges whose slowest stage is fastest; of several, those nearest to the present ones. None: none fits."""
        n_stages, n_layer = len(self.cut), len(self.weights) - 1
        # Of the stages so far, ending before each layer: slowest stage, layers that boundaries moved, and the cut.
        best: dict[int, tuple[float, int, tuple[int, ...]]] = {0: (0.0, 0, (0,))}
        for stage in range(n_stages):
            now = self.cut[stage].end
            ends = [n_layer] if stage == n_stages - 1 else range(stage + 1, n_layer - (n_stages - stage - 1) + 1)
            reached: dict[int, tuple[float, int, tuple[int, ...]]] = {}
            for end in ends:
                found = [
                    (max(slowest_s, self.stage_s(stage, start, end)), n_moved + abs(end - now), (*bounds, end))
                    for start, (slowest_s, n_moved, bounds) in best.items()
                    if start < end and fits(stage, start, end)
                ]
                if found:
                    reached[end] = min(found)
            best = reached
        if n_layer not in best:
            return None
        return tuple(LayerRange(start, end) for start, end in pairwise(best[n_layer][2]))


def _bounds(layers: LayerRange) -> str:
    return f"{layers.start}-{layers.end - 1}"
