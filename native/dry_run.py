# SPDX-License-Identifier: MIT
"""What a stage would take, byte for byte, from llama.cpp itself: a load that allocates nothing.

Reads headers only and takes some hundredths of a second. The KV bytes per layer come from a dry run in which every
layer has a wire of its own, so no architecture has to be known here.
"""

from __future__ import annotations

import ctypes as c
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import llama_cpp

from native.cards import Cards
from native.context import Context, ContextParams, context_params
from native.errors import LoadFailedError
from native.layout import ModelLayout, layout_of
from native.library import BytesStruct, crashes_refused, forget_errors, last_errors, wire
from native.loading import load_handle
from native.memory import MemoryUse
from native.model import Model
from native.placement import is_tied
from native.ranges import LayerRange


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """What one layer takes, wherever it lies. `expert_bytes` of its weights are experts, of which a token uses some."""

    weights_bytes: int
    kv_bytes: int
    expert_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """Exact bytes of every layer, of what only the first stage has, and of what only the last one has."""

    layers: tuple[LayerBytes, ...]
    input_bytes: int
    output_bytes: int
    # The output shares the embedding's weights: the last stage holds them too.
    tied_output: bool


def dry_run(
    model: str | Path | ModelLayout,
    layers: LayerRange,
    device: str | Cards | None,
    params: ContextParams,
    n_cpu_moe: int = 0,
) -> MemoryUse:
    """Exact bytes that a stage would take on this machine's device, or on each of several cards; allocates nothing.
    `n_cpu_moe` as in `Model.load`.

    Raises:
        As `Model.load` and `Context`.
    """
    with Model.load(model, layers=layers, device=device, allocate=False, n_cpu_moe=n_cpu_moe) as loaded:
        with Context(loaded, params) as context:
            use, output_bytes = context.memory(), context.output_bytes
        if params.pooling is None or loaded.layout.is_encoder:
            return use
        # Some architectures leave out of graphs that embed what others need most for (LFM2 its output layer).
        with Context(loaded, replace(params, pooling=None)) as context:
            writing = context.memory().with_host_buffer(output_bytes, is_cpu=loaded.is_cpu)
        return max(use, writing, key=lambda each: each.device_bytes)


def can_shift(model: str | Path | ModelLayout, params: ContextParams) -> bool:
    """Whether a context of this model can forget a part of a sequence and move up what is after it; allocates nothing.

    Raises:
        As `Model.load` and `Context`.
    """
    layout = layout_of(model)
    whole = LayerRange(0, layout.n_layer)
    with Model.load(layout, layers=whole, device="CPU", allocate=False) as loaded, Context(loaded, params) as context:
        return context.can_shift


def measure_layers(model: str | Path | ModelLayout, params: ContextParams) -> LayerCosts:
    """Exact bytes of weights and KV per layer, for the asked context; allocates nothing.

    Raises:
        As `Model.load` and `Context`.
    """
    layout = layout_of(model)
    # ggml schedules over so many backends at most; three are for what lies before and after, and for the CPU.
    at_once = max(1, llama_cpp.llama_max_devices() - 3)
    layers: list[LayerBytes] = []
    for start in range(0, layout.n_layer, at_once):
        some = _measure_some(layout, start, min(start + at_once, layout.n_layer), params)
        layers += some.layers
    expert_bytes = _expert_bytes(layout)
    layers = [replace(layer, expert_bytes=n_bytes) for layer, n_bytes in zip(layers, expert_bytes, strict=True)]
    # Gemma 3n's projection in front of the first layer, which llama.cpp places with the output.
    misplaced_bytes = sum(tensor.n_bytes for tensor in layout.tensors if tensor.name.startswith("altup_proj."))
    input_bytes, output_bytes = some.input_bytes + misplaced_bytes, some.behind_bytes - misplaced_bytes
    return LayerCosts(tuple(layers), input_bytes, output_bytes, is_tied(layout))


def _expert_bytes(layout: ModelLayout) -> list[int]:
    """Of each layer."""
    n_bytes = [0] * layout.n_layer
    for tensor in layout.tensors:
        if tensor.is_expert and tensor.layer is not None and tensor.layer < layout.n_layer:
            n_bytes[tensor.layer] += tensor.n_bytes
    return n_bytes


@dataclass(frozen=True, slots=True)
class _Measured:
    """Some layers, the weights behind the last of them, and those that llama.cpp keeps on the CPU to embed tokens."""

    layers: list[LayerBytes]
    behind_bytes: int
    input_bytes: int


def _measure_some(layout: ModelLayout, start: int, end: int, params: ContextParams) -> _Measured:
    """One dry run with a wire for everything before, one for each layer of [start, end), one for everything after."""
    library = wire()
    bounds = [0, *range(start, end + 1)] if start else list(range(end + 1))
    split = [b - a for a, b in itertools.pairwise(bounds)] + [layout.n_block + 1 - end]
    # llama.cpp groups buffers by the name of their type: every wire needs its own.
    handles = [library.caravan_wire_new(f"MEASURE_{i}".encode(), 0, 1 << 30, 0) for i in range(len(split))]
    try:
        devices = (c.c_void_p * (len(handles) + 1))(*[library.caravan_wire_device(h) for h in handles], None)
        fractions = (c.c_float * max(llama_cpp.llama_max_devices(), len(split)))(*split)
        model_params = llama_cpp.llama_model_default_params()
        model_params.devices = c.cast(devices, c.c_void_p)
        model_params.tensor_split = fractions
        model_params.n_gpu_layers = layout.n_block + 1
        model_params.no_alloc = True
        model_params.load_mode = 0
        by_buffer_type = _breakdown(load_handle(layout, model_params), params)
        nothing = LayerBytes(0, 0)
        on_wires = [by_buffer_type.pop(library.caravan_wire_buffer_type(h), nothing) for h in handles]
        on_cpu = sum(rest.weights_bytes for rest in by_buffer_type.values())
        return _Measured(on_wires[1 if start else 0 : -1], on_wires[-1].weights_bytes, on_cpu)
    finally:
        for handle in handles:
            library.caravan_wire_free(handle)


def _breakdown(model: int, params: ContextParams) -> dict[int, LayerBytes]:
    try:
        forget_errors()
        with crashes_refused():
            context = llama_cpp.llama_init_from_model(model, context_params(params))
        if not context:
            raise LoadFailedError(f"llama.cpp could not make a context: {last_errors()}")
        array = (BytesStruct * 64)()
        n = wire().caravan_memory_breakdown(context, array, len(array))
        llama_cpp.llama_free(context)
        return {entry.buffer_type: LayerBytes(entry.weights, entry.kv) for entry in array[:n]}
    finally:
        llama_cpp.llama_model_free(model)
