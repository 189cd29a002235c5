# SPDX-License-Identifier: MIT
"""How fast a worker's device computes this model: which layers to have it measure, and what their times say about any
stage. Pure: layer shapes and measured runs in, seconds out. Called by `measuring` around the workers' benchmarks.

Layers of the same tensors take the same time, so one run of each kind is measured, and the output layer as what the
last layer's run takes beyond the layer itself. Where experts may have to lie in system memory, the same runs are
measured once more like that. Left out is what grows with the text: attention over a long context takes longer than
these figures say.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
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

    def times(self, factor: float) -> Curve:
        """Every time multiplied."""
        return Curve(tuple((n_tokens, factor * seconds) for n_tokens, seconds in self.points))

    def stretched(self, factor: float) -> Curve:
        """The smallest batch takes so many times as long, and larger ones as many seconds longer: what changes is what
        every batch takes, such as reading the weights, and not what each of its tokens does."""
        return self.later((factor - 1) * self.points[0][1])

    def later(self, more_s: float) -> Curve:
        """Every time so much longer, or shorter."""
        return Curve(tuple((n_tokens, max(0.0, seconds + more_s)) for n_tokens, seconds in self.points))


@dataclass(frozen=True, slots=True)
class Speed:
    """A device's times for one model.

    Attributes:
        kinds: Of each layer, the number of its curve in `layers`.
        output: The output layer's.
        hosted: As `layers`, where a layer's experts lie in system memory; None: not measured.
    """

    kinds: tuple[int, ...]
    layers: tuple[Curve, ...]
    output: Curve
    hosted: tuple[Curve, ...] | None = None

    def layer_s(self, layer: int, n_tokens: int, *, is_hosted: bool = False) -> float:
        """Seconds of one layer for a batch of so many tokens.

        Args:
            is_hosted: Whether its experts, if it has any, lie in system memory.

        Raises:
            ValueError: They do, and that was not measured.
        """
        curves = self.hosted if is_hosted else self.layers
        if curves is None:
            raise ValueError("it was not measured how long a layer takes with its experts in system memory")
        return curves[self.kinds[layer]].at(n_tokens)

    def stage_s(self, layers: LayerRange, n_tokens: int, *, experts_from: int = 0) -> float:
        """Seconds of a stage for a batch of so many tokens; the model's last one has the output layer.

        Args:
            experts_from: The experts of layers before this one lie in system memory.

        Raises:
            ValueError: As `layer_s`.
        """
        own = range(layers.start, layers.end)
        seconds = sum(self.layer_s(layer, n_tokens, is_hosted=layer < experts_from) for layer in own)
        return seconds + (self.output.at(n_tokens) if layers.end == len(self.kinds) else 0.0)

    def stretched(self, factor: float) -> Speed:
        """As `Curve.stretched`, everywhere."""
        return self._each(lambda curve: curve.stretched(factor))

    def _each(self, change: Callable[[Curve], Curve]) -> Speed:
        hosted = None if self.hosted is None else tuple(map(change, self.hosted))
        return Speed(self.kinds, tuple(map(change, self.layers)), change(self.output), hosted)


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
    return Curve(points).times(1 / by)
