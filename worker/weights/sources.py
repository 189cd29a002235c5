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


@dataclass(frozen=True, slots=True)
class Source:
    """Who gives: a peer by its worker's name, or the coordinator."""

    origin: Origin
    worker: str = ""

    def __str__(self) -> str:
        return "the coordinator" if self.origin is Origin.COORDINATOR else f"worker {self.worker}"


COORDINATOR = Source(Origin.COORDINATOR)
