# SPDX-License-Identifier: MIT
"""Where the bytes of a stage's tensors come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from worker.weights.address import Address


class Origin(IntEnum):
    """Where a tensor comes from, in order of preference."""

    STORE = 0
    FILE = 1
    PEER = 2
    # The model's own server.
    INTERNET = 3
    COORDINATOR = 4
    # It was still loaded.
    WARM = 5


@dataclass(frozen=True, slots=True)
class Source:
    """Who gives: a peer by its worker's name, the model's own server, or the coordinator."""

    origin: Origin
    worker: str = ""

    def __str__(self) -> str:
        return f"worker {self.worker}" if self.origin is Origin.PEER else f"the {self.origin.name.lower()}"


INTERNET = Source(Origin.INTERNET)
COORDINATOR = Source(Origin.COORDINATOR)


@dataclass(frozen=True, slots=True)
class Peer:
    """A worker that holds tensors of a model: where its weights port is, and which it held when it was asked."""

    worker: str
    host: str
    port: int
    held_bits: bytes


@dataclass(frozen=True, slots=True)
class WeightSources:
    """Where a load may take weights from beyond this machine.

    `max_bytes_per_s` is of all together, 0: no limit; `addresses` are of all parts, in order, or none; `hashes` are
    those that the coordinator told along with them, by tensor.
    """

    peers: tuple[Peer, ...] = ()
    coordinator_gives: bool = False
    max_bytes_per_s: int = 0
    addresses: tuple[Address, ...] = ()
    hashes: Mapping[int, bytes] = field(default_factory=dict)
