# SPDX-License-Identifier: MIT
"""What a stage takes on this worker, and which of its cards gets what: dry runs, until each card fits or none will.

Called on gRPC's threads and on the loading thread; blocks for some hundredths of a second per dry run.
"""

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from native import (
    Cards,
    ContextParams,
    LayerCosts,
    MemoryUse,
    ModelLayout,
    Split,
    UnsupportedModelError,
    dry_run,
    measure_layers,
)
from worker.cards import Place, fits_each
from worker.errors import BadRequestError
from worker.session import StageSpec
from worker.shares import share_layers

# Compute buffers hardly depend on the cut, so that the second or third way is mostly the last.
_MAX_WAYS = 6

# A coordinator asks for some stages of each model; this is for those that come and go.
_MAX_REMEMBERED = 256

# Tensors are cut at heads and blocks: finer parts than these make no difference.
_PART_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a stage goes, one device or cards with what each gets, and what it takes there."""

    device: str | Cards
    memory: MemoryUse


class DryRuns:
    """What stages take, each dry run made once. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[StageSpec, str | Cards], MemoryUse] = {}

    def on(self, device: str | Cards, spec: StageSpec, layout: ModelLayout) -> Placed:
        """The stage there.

        Args:
            layout: of the file with the identity that `spec` names.

        Raises:
            BadRequestError, NativeError: as `place_stage`.
        """
        with self._lock:
            known = self._known
            use = known.pop((spec, device), None)
            if use is None:
                try:
                    use = dry_run(layout, spec.layers, device, spec.params, spec.n_cpu_moe)
                except ValueError as error:
                    raise BadRequestError(str(error)) from error
            known[spec, device] = use
            if len(known) > _MAX_REMEMBERED:
                del known[next(iter(known))]
        return Placed(device, use)


def place_stage(
    spec: StageSpec, layout: ModelLayout, place: Place, free_bytes: Sequence[int], dry_runs: DryRuns
) -> Placed:
    """Where the stage fits best, whether it fits there or not; allocates nothing.

    Args:
        layout: of the file with the identity that `spec` names.
        free_bytes: on each of the place's cards, if they are several.

    Raises:
        BadRequestError: parameters that this model cannot have, or not on several cards.
        NativeError: llama.cpp refuses the model.
    """
    if not place.is_several:
        return dry_runs.on(place.names[0], spec, layout)
    if place.split is Split.TENSOR:
        return _share_tensors(spec, layout, place, free_bytes, dry_runs)
    return _share_layers(spec, layout, place, free_bytes, dry_runs)


def _share_layers(
    spec: StageSpec, layout: ModelLayout, place: Place, free_bytes: Sequence[int], dry_runs: DryRuns
) -> Placed:
    """The first way in which each card fits, else the last one."""
    layer_bytes = _layer_bytes(spec, layout)
    beside_bytes = [0] * len(place.names)
    tried: dict[tuple[int, ...], Placed] = {}
    shares = share_layers(layer_bytes, beside_bytes, free_bytes)
    while shares not in tried and len(tried) < _MAX_WAYS:
        placed = tried[shares] = dry_runs.on(Cards(place.names, Split.LAYER, shares), spec, layout)
        if fits_each(placed.memory, free_bytes):
            break
        # What was taken beside the layers is learnt, and only grows, so that the ways settle.
        for i, (card, own) in enumerate(zip(placed.memory.cards, _dealt(layer_bytes, shares), strict=True)):
            beside_bytes[i] = max(beside_bytes[i], card.device_bytes - sum(own))
        shares = share_layers(layer_bytes, beside_bytes, free_bytes)
    return placed


def _share_tensors(
    spec: StageSpec, layout: ModelLayout, place: Place, free_bytes: Sequence[int], dry_runs: DryRuns
) -> Placed:
    """Equal parts, which are fastest on equal cards, else parts by memory; by layers where neither can be, unless the
    user wants tensors shared."""
    by_memory = tuple(max(1, n_bytes // _PART_BYTES) for n_bytes in free_bytes)
    refused: Exception | None = None
    best: Placed | None = None
    for shares in ((1,) * len(place.names), by_memory):
        try:
            best = dry_runs.on(Cards(place.names, Split.TENSOR, shares), spec, layout)
        except (UnsupportedModelError, BadRequestError) as error:
            refused = refused or error
            continue
        if fits_each(best.memory, free_bytes):
            return best
    if not place.is_told:
        return _share_layers(spec, layout, place, free_bytes, dry_runs)
    if best is None:
        assert refused is not None, "what was not tried was refused"
        raise refused
    return best


def _layer_bytes(spec: StageSpec, layout: ModelLayout) -> list[int]:
    """What each of the stage's layers takes on a card; the last one of the model with the output behind it."""
    costs = _layer_costs(str(layout.path), layout.identity, spec.params)
    n_bytes = []
    n_left_out = spec.n_cpu_moe
    for layer in costs.layers[spec.layers.start : spec.layers.end]:
        n_bytes.append(layer.weights_bytes + layer.kv_bytes)
        if n_left_out and layer.expert_bytes:
            n_bytes[-1] -= layer.expert_bytes
            n_left_out -= 1
    if spec.layers.end == layout.n_layer:
        n_bytes[-1] += costs.output_bytes + (costs.input_bytes if costs.tied_output else 0)
    return n_bytes


@functools.lru_cache(maxsize=8)
def _layer_costs(path: str, _identity: str, params: ContextParams) -> LayerCosts:
    """Remembered while the file is the same: a planner asks for many ranges of one model."""
    return measure_layers(path, params)


def _dealt(layer_bytes: Sequence[int], shares: Sequence[int]) -> list[Sequence[int]]:
    """The layers of each card."""
    dealt = []
    start = 0
    for n_layers in shares:
        dealt.append(layer_bytes[start : start + n_layers])
        start += n_layers
    return dealt
