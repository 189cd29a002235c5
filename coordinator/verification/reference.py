# SPDX-License-Identifier: MIT
"""The reference: llama.cpp alone on this machine, with the whole model at once, or where memory does not suffice for
that with one part of its layers after the other. Blocks; called on a thread of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from coordinator.errors import CancelledError, DoesNotFitError
from coordinator.plan import shown
from coordinator.verification.comparison import Logits
from coordinator.verification.exercise import ExerciseStep
from native import Context, ContextParams, CrossingTensor, LayerRange, Model, ModelLayout, dry_run, find_device
from protos.sizes import size

_MARGIN = 0.05
"""Of the free memory, left for everybody else."""

Crossing = Sequence[CrossingTensor]

OnPart = Callable[[LayerRange, float], bool]
"""Told of the layers that are computed, and how much of that is done, 0 to 1; False calls it off."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What the reference computed.

    Attributes:
        logits: Of each step.
        crossing: By the layer in front of which they cross, the hidden states of each step.
    """

    logits: list[Logits]
    crossing: dict[int, list[Crossing]] = field(default_factory=dict)


def compute(
    layout: ModelLayout,
    params: ContextParams,
    device: str,
    bounds: Sequence[int],
    steps: Sequence[ExerciseStep],
    on_part: OnPart,
) -> Computed:
    """Computes the steps with the layers between two neighbouring bounds at a time; 0 and n_layer alone are the whole
    model, without a wire.

    Raises:
        CancelledError: `on_part` called it off.
        NativeError: llama.cpp cannot load or compute it.
    """
    done = Computed([])
    passed: list[Crossing] = [()] * len(steps)
    for start, end in itertools.pairwise(bounds):
        layers = LayerRange(start, end)
        if start:
            done.crossing[start] = passed
        with (
            Model.load(layout, layers=layers, device=device, on_progress=_first_half(on_part, layers)) as model,
            Context(model, params) as context,
        ):
            passed = _run(context, steps, passed, done.logits if model.is_last else None, layers, on_part)
    return done


def _first_half(on_part: OnPart, layers: LayerRange) -> Callable[[float], bool]:
    """Loading, as half of what is to be done with these layers."""
    return lambda fraction: on_part(layers, fraction / 2)


def _run(
    context: Context,
    steps: Sequence[ExerciseStep],
    arriving: Sequence[Crossing],
    logits: list[Logits] | None,
    layers: LayerRange,
    on_part: OnPart,
) -> list[Crossing]:
    """All steps through these layers; what crosses to the next ones."""
    leaving: list[Crossing] = []
    for number, (step, crossing) in enumerate(zip(steps, arriving, strict=True)):
        if not on_part(layers, 0.5 + 0.5 * number / len(steps)):
            raise CancelledError("it was called off")
        if step.begins_text:
            context.kv_remove(0, 0, -1)
        leaving.append(context.step(step.batch, crossing))
        if logits is not None:
            logits.append(np.stack([context.logits(row).copy() for row in step.rows]))
    return leaving


def free_bytes(device: str) -> int:
    """What a reference may take there now."""
    return int(find_device(device).free_bytes * (1 - _MARGIN))


def whole_bytes(layout: ModelLayout, params: ContextParams, device: str) -> int:
    """What the whole model takes there. Raises as `dry_run`."""
    return _bytes_of(layout, LayerRange(0, layout.n_layer), params, device)


def parts(layout: ModelLayout, params: ContextParams, device: str, cuts: Sequence[int], limit_bytes: int) -> list[int]:
    """Bounds with all of these cuts, and as many more that each part fits.

    Raises:
        DoesNotFitError: One layer alone is too large.
    """
    bounds = [0]
    for start, end in itertools.pairwise([0, *cuts, layout.n_layer]):
        bounds += _ends(layout, params, device, LayerRange(start, end), limit_bytes)
    return bounds


def _ends(layout: ModelLayout, params: ContextParams, device: str, layers: LayerRange, limit_bytes: int) -> list[int]:
    """Of the parts of a layer range, the last layer's excluded end last."""
    n_bytes = _bytes_of(layout, layers, params, device)
    if n_bytes <= limit_bytes:
        return [layers.end]
    if len(layers) == 1:
        raise DoesNotFitError(
            f"nothing can be compared: {shown(layers)} of {layout.name} alone takes {size(n_bytes)} on this machine, of"
            f" which {size(limit_bytes)} can be had; end what else uses it, or take less --context or --parallel",
            needed_bytes=n_bytes,
            available_bytes=limit_bytes,
        )
    middle = (layers.start + layers.end) // 2
    halves = (LayerRange(layers.start, middle), LayerRange(middle, layers.end))
    return [end for half in halves for end in _ends(layout, params, device, half, limit_bytes)]


def _bytes_of(layout: ModelLayout, layers: LayerRange, params: ContextParams, device: str) -> int:
    use = dry_run(layout, layers, device, params)
    return use.device_bytes + use.host_bytes
