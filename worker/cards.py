# SPDX-License-Identifier: MIT
"""Where a worker computes: one device, or several cards of this machine that hold each stage together. Found once, when
the worker starts; their memory is read as often as somebody asks.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from native import (
    CardUse,
    Device,
    DeviceKind,
    LayerRange,
    MemoryUse,
    Split,
    UnknownDeviceError,
    bus_id,
    find_device,
)
from protos.sizes import size
from worker import peers
from worker.errors import CardsError, DoesNotFitError, UnknownDeviceNameError
from worker.memory import MemoryLimits
from worker.shares import fitting_bytes

# ggml schedules over 16 backends at most: two wires and the CPU are among them.
MAX_CARDS = 13


@dataclass(frozen=True, slots=True)
class Place:
    """The devices of a worker, by llama.cpp's names: one, or cards that share stages by `split`.

    `is_told`: the user said how; else layers are shared where a model's tensors cannot be. `reserve_bytes` stay free
    on each of several cards.
    """

    names: tuple[str, ...]
    split: Split = Split.LAYER
    is_told: bool = False
    reserve_bytes: int = 0

    @property
    def is_several(self) -> bool:
        """Whether there are cards to share among."""
        return len(self.names) > 1

    @property
    def takes_experts_beside(self) -> bool:
        """Whether experts may lie in system memory while the rest of a stage is here."""
        return not (self.is_several and self.split is Split.TENSOR and self.is_told)

    def device(self) -> Device:
        """What it is, several cards as one, with its memory now."""
        return as_one([find_device(name) for name in self.names], self.reserve_bytes)

    def free_bytes(self) -> tuple[int, ...]:
        """What there is on each of several cards now, beside what stays free."""
        return tuple(max(0, find_device(name).free_bytes - self.reserve_bytes) for name in self.names)

    def limits(self, limits: MemoryLimits) -> MemoryLimits:
        """As they are for `device()`, in which several cards have their reserves off already."""
        return replace(limits, reserve_bytes=0) if self.is_several else limits


def find_place(text: str | None, wanted: str, reserve_bytes: int = 0) -> Place:
    """What `--device` and `--split` mean on this machine; without a device the first GPU, else the CPU.

    Args:
        wanted: what `--split` says (worker/fleet.py); a device alone has no use for it.

    Raises:
        UnknownDeviceNameError: llama.cpp has no such device.
        CardsError: devices that cannot be one worker's together, or not like this.
    """
    split = _asked_split(wanted)
    try:
        found = [find_device(name) for name in card_names(text)] if text is not None else [find_device()]
    except UnknownDeviceError as error:
        raise UnknownDeviceNameError(
            f"there is no device {error.name!r} on this machine; it has {', '.join(error.available)}"
        ) from error
    names = tuple(device.name for device in found)
    if len(found) == 1:
        return Place(names)
    bus_ids = [bus_id(name) for name in names]
    check_together(found, bus_ids, split)
    are_peers = split is None and peers.are_peers(bus_ids, peers.asked_of_nvml)
    return Place(names, split or chosen_split(found, are_peers=are_peers), split is not None, reserve_bytes)


def _asked_split(wanted: str) -> Split | None:
    """None: to be chosen here. Raises CardsError for rows."""
    if wanted == "row":
        raise CardsError(
            "--split row cannot be had: llama.cpp has it for SYCL alone, and not for a part of a model; use --split"
            " tensor, which is for the same cards, or --split layer"
        )
    return None if wanted == "auto" else Split[wanted.upper()]


def card_names(text: str) -> tuple[str, ...]:
    """The names in a list with commas.

    Raises:
        CardsError: an empty one, or one twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise CardsError(f"--device {text!r} has no name between two commas or at an end; write it like CUDA0,CUDA1")
    lower = [name.lower() for name in names]
    twice = [name for i, name in enumerate(names) if name.lower() in lower[:i]]
    if twice:
        raise CardsError(f"--device {text!r} names {twice[0]} twice; name each card once")
    return names


def check_together(cards: Sequence[Device], bus_ids: Sequence[str | None], split: Split | None = None) -> None:
    """Raises CardsError for devices that llama.cpp does not take as one model's, or not for that split.

    Args:
        bus_ids: where each card is; None: not known.
    """
    others = [card for card in cards if card.kind not in (DeviceKind.GPU, DeviceKind.INTEGRATED_GPU)]
    if others:
        raise CardsError(
            f"{others[0].name} cannot share a stage with other devices, as only GPUs can; give it a worker of its own"
            f" with --device {others[0].name}"
        )
    for (one, its_place), (other, other_place) in itertools.combinations(zip(cards, bus_ids, strict=True), 2):
        if its_place is not None and its_place == other_place and one.backend != other.backend:
            raise CardsError(f"{one.name} and {other.name} are one card, of two backends; name it once")
    backends = list(dict.fromkeys(card.backend for card in cards))
    if len(backends) > 1 and split is Split.TENSOR:
        raise CardsError(f"cards of {' and '.join(backends)} cannot share tensors with each other; use --split layer")
    if len(cards) > MAX_CARDS:
        raise CardsError(f"{len(cards)} cards are more than the {MAX_CARDS} of one worker; start another for the rest")


def chosen_split(cards: Sequence[Device], *, are_peers: bool) -> Split:
    """How cards share a stage unless the user says it: by tensors where all work at once and are quick to exchange what
    they have, else by layers.

    Args:
        are_peers: they reach each other's memory directly.
    """
    return Split.TENSOR if are_peers and len({card.backend for card in cards}) == 1 else Split.LAYER


def as_one(cards: Sequence[Device], reserve_bytes: int = 0) -> Device:
    """Several cards as one device, of whose memory `reserve_bytes` on each are none of ours; a single one as it is."""
    if len(cards) == 1:
        return cards[0]
    kinds = {card.kind for card in cards}
    descriptions = Counter(card.description for card in cards)
    return Device(
        name=",".join(card.name for card in cards),
        description=", ".join(f"{n} x {kind}" if n > 1 else kind for kind, n in descriptions.items()),
        backend=", ".join(dict.fromkeys(card.backend for card in cards)),
        # Memory shared with the system is counted with care, so one such card makes all of them one.
        kind=DeviceKind.INTEGRATED_GPU if DeviceKind.INTEGRATED_GPU in kinds else DeviceKind.GPU,
        free_bytes=sum(max(0, card.free_bytes - reserve_bytes) for card in cards),
        total_bytes=sum(card.total_bytes for card in cards),
    )


def check_each_fits(use: MemoryUse, layers: LayerRange, place: Place, free_bytes: Sequence[int]) -> None:
    """Raises DoesNotFitError, naming the card, if one of several has less free than it would hold of `use`."""
    for name, card, free in zip(place.names, use.cards, free_bytes, strict=False):
        if card.device_bytes > free:
            beside = f" beside its --reserve of {size(place.reserve_bytes)}" if place.reserve_bytes else ""
            raise DoesNotFitError(
                f"layers {layers} do not fit: {name} would hold {size(card.device_bytes)} of them (weights"
                f" {size(card.weights_bytes)}, KV cache {size(card.kv_bytes)}, compute buffers"
                f" {size(card.compute_bytes)}), and {size(free)} is free there{beside}; give this worker fewer"
                " layers, or ask for a shorter context",
                needed_bytes=card.device_bytes,
                free_bytes=free,
            )


def free_beside(held: MemoryUse, free_bytes: Sequence[int]) -> list[int]:
    """What there is on each card once the stage that is loaded, which has `held` of them, is gone."""
    cards = held.cards or [CardUse()] * len(free_bytes)
    return [free + card.device_bytes for free, card in zip(free_bytes, cards, strict=True)]


def fits_each(use: MemoryUse, free_bytes: Sequence[int]) -> bool:
    """Whether each of several cards has as much free as it would hold of `use`."""
    return all(card.device_bytes <= free for card, free in zip(use.cards, free_bytes, strict=False))


def room_for(use: MemoryUse, free_bytes: Sequence[int], limit_bytes: int) -> int:
    """Bytes there are for a stage, less than it takes if one of several cards has too little for its share.

    Args:
        use: what the stage takes.
        free_bytes: on each card.
        limit_bytes: for all of them together.
    """
    if fits_each(use, free_bytes):
        return limit_bytes
    return min(limit_bytes, fitting_bytes([card.device_bytes for card in use.cards], free_bytes))
