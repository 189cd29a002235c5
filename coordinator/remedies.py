# SPDX-License-Identifier: MIT
"""What helps when memory does not suffice, in words and numbers, as far as that needs no search. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.candidates import MARGIN_BYTES
from coordinator.plan import Demand
from coordinator.quantisations import size_within
from protos.sizes import size

_MOST = 3
"""More are not read."""

_CONTEXT_STEP = 256
"""llama.cpp rounds a context up to this many tokens."""


def said(ways: Sequence[str]) -> str:
    """The first three of some remedies, of which there is at least one, as part of a sentence."""
    *others, last = ways[:_MOST]
    return f"{', '.join(others)} or {last}" if others else last


def remedies(demand: Demand, missing_bytes: int, better: Sequence[str] = ()) -> str:
    """The three cheapest ways to make it fit, with numbers where they are known.

    Args:
        better: Those that cost neither context nor quality.
    """
    caches, room = _smaller_caches(demand, missing_bytes), _more_room(demand, missing_bytes)
    if better and len(caches) > 1:
        caches = [f"{caches[0]} (or {caches[1]})"]
    # One way that costs neither context nor sequences is among them.
    return said([*better, *caches[: _MOST - 1], *room])


def _smaller_caches(demand: Demand, missing_bytes: int) -> list[str]:
    """Ways that cost context, precision or parallel sequences."""
    if missing_bytes <= 0:
        return ["lower the context"]
    ways = []
    left = 1 - missing_bytes / demand.kv_bytes if missing_bytes < demand.kv_bytes else 0.0
    n_ctx = int(demand.n_ctx * left) // _CONTEXT_STEP * _CONTEXT_STEP
    if n_ctx >= _CONTEXT_STEP:
        ways.append(f"lower the context to about {n_ctx} tokens")
    if demand.compact_kv_bytes is not None and demand.kv_bytes - demand.compact_kv_bytes >= missing_bytes:
        saved = size(demand.kv_bytes - demand.compact_kv_bytes)
        ways.append(f"keep the KV cache as q8_0, which saves {saved}: --kv-type q8_0 --flash-attention on")
    n_sequences = int(demand.n_sequences * left)
    if n_sequences:
        ways.append(f"serve {n_sequences} in parallel instead of {demand.n_sequences}")
    return ways


def _more_room(demand: Demand, missing_bytes: int) -> list[str]:
    """Ways that cost quality or hardware."""
    if missing_bytes <= 0:
        return ["use a smaller quantisation", "add a worker"]
    ways = []
    if missing_bytes < demand.weights_bytes:
        most_bytes = demand.weights_bytes - missing_bytes
        known = size_within(demand, most_bytes)
        example = "" if known is None else f", such as {known[0]} with about {size(known[1])}"
        ways.append(f"use a quantisation of at most {size(most_bytes)}{example}")
    return [*ways, f"add a worker with {size(missing_bytes + MARGIN_BYTES)} free or more"]
