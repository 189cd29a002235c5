# SPDX-License-Identifier: MIT
"""What an inventory says once it is read: devices, and what lies between their hosts. Values that `reading` makes and
`estimates` counts with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.inventory.cards import Kind
from coordinator.workers import Link


@dataclass(frozen=True, slots=True)
class InventoryDevice:
    """One device that there could be.

    Attributes:
        name: Unique in the inventory.
        host: Its machine.
        label: What it is, for people.
        reserve_bytes: Of its memory, not for us.
        flops: None where nobody knows.
        ram_bytes: Of the machine's memory beside it, for experts that do not fit there.
        ram_bytes_per_s: How fast that is read.
    """

    name: str
    host: str
    label: str
    kind: Kind
    memory_bytes: int
    reserve_bytes: int
    bytes_per_s: float
    flops: float | None
    ram_bytes: int = 0
    ram_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Inventory:
    """Devices and the network between their hosts.

    Attributes:
        source: What to call the file in messages.
        coordinator: The host that leads the line.
        network: Between two hosts for which `links` has nothing, either way round; bare, without gRPC's share.
        assumed: Sentences about what the file left open and was decided for it.
    """

    source: str
    devices: tuple[InventoryDevice, ...]
    coordinator: str
    network: Link
    links: Mapping[tuple[str, str], Link]
    assumed: tuple[str, ...] = ()

    def between(self, host: str, other: str) -> Link:
        """What lies between two hosts that are not the same."""
        return self.links.get((host, other)) or self.links.get((other, host)) or self.network
