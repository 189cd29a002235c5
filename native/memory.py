# SPDX-License-Identifier: MIT
"""How much memory a stage takes, by purpose and by card, from llama.cpp itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

from native.joined import JoinedCards
from native.library import BytesStruct, wire
from native.model import Model

# More buffer types than a context can have: a handful of devices, each with a host and an extra type.
_MAX_BUFFER_TYPES = 64


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
    """Bytes by purpose; `host_bytes` of their sum count as system memory beside the device: what lies there though the
    device is another, and on the CPU the experts that `n_cpu_moe` names. `cards`: of several cards what is on each."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    host_bytes: int
    cards: tuple[CardUse, ...] = ()

    @property
    def device_bytes(self) -> int:
        """What the device itself has to hold."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes - self.host_bytes

    def with_host_buffer(self, n_bytes: int, *, is_cpu: bool) -> MemoryUse:
        """With so much more to compute in, in system memory; on a CPU that is the device."""
        host_bytes = self.host_bytes + (0 if is_cpu else n_bytes)
        return replace(self, compute_bytes=self.compute_bytes + n_bytes, host_bytes=host_bytes)


def measure(model: Model, context: int, n_ubatch: int) -> MemoryUse:
    """What the buffers of a context of the model take, or would take in a dry run; wires left out.

    Of cards that share tensors, only a dry run tells exactly: else each counts as much as the one that has most.
    """
    if model.place.joined is not None:
        return _measure_joined(model, model.place.joined, context, n_ubatch)
    # A fence around the CPU and the CPU have one compute buffer, which llama.cpp foretells for each of them.
    n_counts = 1 + len(model.wires.fences) if model.is_dry and model.is_cpu else 1
    cards = dict.fromkeys(model.place.card_buffer_types, CardUse())
    total, host_bytes = CardUse(), model.host_experts.n_bytes if model.is_cpu else 0
    for buffer_type, use in _breakdown(model, context):
        use = replace(use, compute_bytes=use.compute_bytes // n_counts)
        total += use
        if buffer_type in cards:
            cards[buffer_type] = use
        elif not model.is_cpu:
            host_bytes += use.device_bytes
    are_several = len(model.place.card_buffer_types) > 1 and not model.is_cpu
    of_each = tuple(cards[buffer_type] for buffer_type in model.place.card_buffer_types) if are_several else ()
    return MemoryUse(total.weights_bytes, total.kv_bytes, total.compute_bytes, host_bytes, of_each)


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
