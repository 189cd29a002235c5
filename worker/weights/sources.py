# SPDX-License-Identifier: MIT
"""Where the bytes of a stage's tensors come from."""

from dataclasses import dataclass
from enum import IntEnum


class Origin(IntEnum):
    """Where a tensor comes from, in order of preference."""

    STORE = 0
    FILE = 1
    PEER = 2
    COORDINATOR = 3
    # It was still loaded.
    WARM = 4


@dataclass(frozen=True, slots=True)
class Source:
    """Who gives: a peer by its worker's name, or the coordinator."""

    origin: Origin
    worker: str = ""

    def __str__(self) -> str:
        return "the coordinator" if self.origin is Origin.COORDINATOR else f"worker {self.worker}"


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
    """Where a load may take weights from beyond this machine; `max_bytes_per_s` of all together, 0: no limit."""

    peers: tuple[Peer, ...] = ()
    coordinator_gives: bool = False
    max_bytes_per_s: int = 0
