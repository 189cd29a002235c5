# SPDX-License-Identifier: MIT
"""Workers as they tell of themselves, and links between them, for tests of what is pure."""

from collections.abc import Iterable

from coordinator.prediction import Links
from coordinator.workers import BuildVersions, FoundWorker, Link, WorkerDevice

MIB = 1 << 20
GIB = 1 << 30


def worker(
    name: str, *, host: str = "desk", device: str = "CPU", kind: str = "cpu", free: int = GIB, ram: int = 0
) -> FoundWorker:
    """A worker that holds nothing."""
    return FoundWorker(
        name=name,
        instance_id=name,
        address=f"{name}:1",
        host_name=host,
        contract_version="1",
        versions=BuildVersions("", "", "", ""),
        device=WorkerDevice(device, "", "", kind, free, 2 * free, free, ram),
    )


def links_of(names: Iterable[str], round_trip_ms: float) -> Links:
    """The same link between everybody and the coordinator."""
    ends = ["", *names]
    link = Link(round_trip_ms / 1000, 1e9)
    return Links({(a, b): link for a in ends for b in ends if a != b})
