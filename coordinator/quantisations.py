# SPDX-License-Identifier: MIT
"""The sizes in which a model is commonly to be had, and what one of them would be like. Pure."""

from __future__ import annotations

from dataclasses import replace

from coordinator.plan import Demand
from native import LayerBytes, LayerCosts

COMMON_SIZES = {"Q8_0": 8.50, "Q6_K": 6.56, "Q5_K_M": 5.70, "Q4_K_M": 4.89, "Q3_K_M": 4.00}
"""Bits per weight, largest first. Source: the tables of tools/quantize/README.md in llama.cpp (Llama 3.1 8B); of other
models some hundredths more or less."""

_SAME = 0.08
"""A model whose bits per weight differ by less from a size's, relatively, is taken to be of that size."""


def other_sizes(demand: Demand) -> list[tuple[str, float]]:
    """The nearest common sizes below and above the model's own, smaller first: name, and how many times its bytes."""
    own = demand.bits_per_weight
    if not own:
        return []
    smaller = [name for name, bits in COMMON_SIZES.items() if bits < own * (1 - _SAME)]
    larger = [name for name, bits in COMMON_SIZES.items() if bits > own * (1 + _SAME)]
    return [(name, COMMON_SIZES[name] / own) for name in (*smaller[:1], *larger[-1:])]


def size_within(demand: Demand, most_bytes: int) -> tuple[str, int] | None:
    """The largest common size of at most so many bytes of weights, and its bytes; None: not even the smallest."""
    own = demand.bits_per_weight
    if not own:
        return None
    sizes = [(name, int(demand.weights_bytes * bits / own)) for name, bits in COMMON_SIZES.items()]
    return next(((name, n_bytes) for name, n_bytes in sizes if n_bytes <= most_bytes), None)


def with_weights(demand: Demand, factor: float) -> Demand:
    """The same model with so many times its bytes of weights."""
    costs = demand.costs
    layers = tuple(
        LayerBytes(int(layer.weights_bytes * factor), layer.kv_bytes, int(layer.expert_bytes * factor))
        for layer in costs.layers
    )
    scaled = LayerCosts(layers, int(costs.input_bytes * factor), int(costs.output_bytes * factor), costs.tied_output)
    return replace(demand, costs=scaled)
