# SPDX-License-Identifier: MIT
"""How much memory a stage takes, by purpose and by card, from llama.cpp itself."""

from __future__ import annotations

import ctypes as c
from dataclasses import dataclass, replace

from native.cards import Split
from native.joined import JoinedCards
from native.library import BytesStruct, declare, ggml_base, wire
from native.model import Model

# More buffer types than a context can have: a handful of devices, each with a host and an extra type.
_MAX_BUFFER_TYPES = 64

_is_host = declare(ggml_base, "ggml_backend_buft_is_host", c.c_bool, c.c_void_p)


@dataclass(frozen=True, slots=True)
class CardUse:
    """Bytes on one of several cards, by purpose."""

    weights_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0

    @property
    def device_bytes(self) -> int:
        """All of them."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes

    def __add__(self, other: CardUse) -> CardUse:
        return CardUse(
            self.weights_bytes + other.weights_bytes,
            self.kv_bytes + other.kv_bytes,
            self.compute_bytes + other.compute_bytes,
        )


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes by purpose; `host_bytes` of their sum lie in system memory beside the device (0 on the CPU). Of several
    cards, `cards` has what is on each, as far as that is known."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    host_bytes: int
    cards: tuple[CardUse, ...] = ()

    @property
    def device_bytes(self) -> int:
        """What the device itself has to hold."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes - self.host_bytes


def measure(model: Model, context: int, n_ubatch: int) -> MemoryUse:
    """What the buffers of a context of the model take, or would take in a dry run; wires left out.

    Of cards that share tensors, only a dry run tells exactly: else each counts as much as the one that has most.
    """
    if model.place.joined is not None:
        return _measure_joined(model, model.place.joined, context, n_ubatch)
    # A fence around the CPU and the CPU have one compute buffer, which llama.cpp foretells for each of them.
    shares = 1 + len(model.wires.fences) if model.is_dry and model.is_cpu else 1
    cards = dict.fromkeys(model.place.buffer_types, CardUse())
    total, host = CardUse(), 0
    for buffer_type, use in _breakdown(model, context):
        use = replace(use, compute_bytes=use.compute_bytes // shares)
        total += use
        if buffer_type in cards:
            cards[buffer_type] = use
        elif not model.is_cpu and (model.place.split is not Split.ROW or _is_host(buffer_type)):
            host += use.device_bytes
    of_each = tuple(map(cards.__getitem__, model.place.buffer_types))
    is_told = len(of_each) > 1 and not model.is_cpu and model.place.split is not Split.ROW
    return MemoryUse(total.weights_bytes, total.kv_bytes, total.compute_bytes, host, of_each if is_told else ())


def _measure_joined(model: Model, joined: JoinedCards, context: int, n_ubatch: int) -> MemoryUse:
    """What cards that share tensors take, each its own parts; where nothing tells those, as much as the fullest."""
    cards = []
    for card in range(joined.n_cards):
        joined.weigh(card)
        beside = CardUse()
        for buffer_type, use in _breakdown(model, context):
            if buffer_type == joined.buffer_type:
                exchange_bytes = joined.exchange_bytes(n_ubatch)
                cards.append(replace(use, compute_bytes=use.compute_bytes + exchange_bytes))
            else:
                beside += use
        joined.check_weighed()
    joined.weigh(None)
    total = sum(cards, beside)
    return MemoryUse(
        total.weights_bytes, total.kv_bytes, total.compute_bytes, host_bytes=beside.device_bytes, cards=tuple(cards)
    )


def _breakdown(model: Model, context: int) -> list[tuple[int, CardUse]]:
    """Bytes by buffer type; wires left out."""
    wires = model.wires
    elsewhere = {wire().caravan_wire_buffer_type(h) for h in (wires.before, wires.after) if h is not None}
    array = (BytesStruct * _MAX_BUFFER_TYPES)()
    n = wire().caravan_memory_breakdown(context, array, _MAX_BUFFER_TYPES)
    return [
        (entry.buffer_type, CardUse(entry.weights, entry.kv, entry.compute))
        for entry in array[:n]
        if entry.buffer_type not in elsewhere
    ]
