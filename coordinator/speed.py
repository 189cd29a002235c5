# SPDX-License-Identifier: MIT
"""How fast a worker's device computes this model: which layers to have it measure, and what their times say about any
stage. Pure: layer shapes and measured runs in, seconds out. Called by `loading` around the workers' benchmarks.

Layers of the same tensors take the same time, so one run of each kind is measured, and the output layer as what the
last layer's run takes beyond the layer itself. Left out is what grows with the text: attention over a long context
takes longer than these figures say.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.workers import BenchmarkedRun
from native import LayerRange, ModelLayout

RUN_BYTES = 256 << 20
"""Weights of a measured run, if the model has so many of one kind in a row: more than a CPU's cache holds, which would
flatter it."""

Points = tuple[tuple[int, float], ...]
"""Tokens of a batch and its seconds, ascending."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds by tokens in a batch; straight between measured points and beyond the last."""

    points: Points

    def at(self, n_tokens: int) -> float:
        """Seconds for a batch of so many tokens (>= 1)."""
        points = self.points
        if len(points) == 1 or n_tokens <= points[0][0]:
            return points[0][1]
        end = min(max(1, bisect.bisect_left(points, (n_tokens,))), len(points) - 1)
        (n_low, low_s), (n_high, high_s) = points[end - 1], points[end]
        return max(0.0, low_s + (high_s - low_s) * (n_tokens - n_low) / (n_high - n_low))


@dataclass(frozen=True, slots=True)
class Speed:
    """A device's times for one model.

    Attributes:
        kinds: Of each layer, the number of its curve in `layers`.
        output: The output layer's.
    """

    kinds: tuple[int, ...]
    layers: tuple[Curve, ...]
    output: Curve

    def layer_s(self, layer: int, n_tokens: int) -> float:
        """Seconds of one layer for a batch of so many tokens."""
        return self.layers[self.kinds[layer]].at(n_tokens)

    def stage_s(self, layers: LayerRange, n_tokens: int) -> float:
        """Seconds of a stage for a batch of so many tokens; the model's last one has the output layer."""
        seconds = sum(self.layer_s(layer, n_tokens) for layer in range(layers.start, layers.end))
        return seconds + (self.output.at(n_tokens) if layers.end == len(self.kinds) else 0.0)


def layer_kinds(layout: ModelLayout) -> tuple[int, ...]:
    """A number for each layer, the same for layers with the same tensors."""
    tensors: list[list[tuple[str, str, int]]] = [[] for _ in range(layout.n_layer)]
    for tensor in layout.tensors:
        if tensor.layer is not None and tensor.layer < layout.n_layer:
            name = tensor.name.split(".", 2)[-1]
            tensors[tensor.layer].append((name, tensor.type_name, tensor.n_bytes))
    numbers: dict[tuple[tuple[str, str, int], ...], int] = {}
    return tuple(numbers.setdefault(tuple(sorted(own)), len(numbers)) for own in tensors)


def runs_to_measure(kinds: Sequence[int], weights_bytes: Sequence[int]) -> list[LayerRange]:
    """A run of each kind of layer, and the last layer, with which comes the output layer.

    Args:
        kinds: Of each layer.
        weights_bytes: Of each layer.
    """
    last = len(kinds) - 1
    runs = []
    for kind in range(max(kinds) + 1):
        start = kinds.index(kind)
        if start == last:
            continue  # a kind of its own: measured below
        end, n_bytes = start + 1, weights_bytes[start]
        while end < last and kinds[end] == kind and n_bytes < RUN_BYTES:
            n_bytes += weights_bytes[end]
            end += 1
        runs.append(LayerRange(start, end))
    return [*runs, LayerRange(last, last + 1)]


def speed_of(kinds: tuple[int, ...], weights_bytes: Sequence[int], runs: Sequence[BenchmarkedRun]) -> Speed:
    """What the measured runs (of `runs_to_measure`, in that order) say.

    A last layer of a kind of its own counts as much of the layer before it as it has weights.
    """
    *inner, last = runs
    curves = {kinds[run.layers.start]: _divided(run.points, len(run.layers)) for run in inner}
    end = len(kinds) - 1
    if not inner:
        return Speed(kinds, (Curve(last.points),), Curve(((1, 0.0),)))
    if kinds[end] not in curves:
        share = weights_bytes[end] / max(1, weights_bytes[end - 1])
        curves[kinds[end]] = _divided(curves[kinds[end - 1]].points, 1 / max(share, 1e-9))
    layer = curves[kinds[end]]
    output = Curve(tuple((n, max(0.0, seconds - layer.at(n))) for n, seconds in last.points))
    return Speed(kinds, tuple(curves[kind] for kind in range(len(curves))), output)


def _divided(points: Points, by: float) -> Curve:
    return Curve(tuple((n_tokens, seconds / by) for n_tokens, seconds in points))
