# SPDX-License-Identifier: MIT
"""The workers as the planner sees them: what each can give, and what those on one device share. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordinator.speed import Speed
from coordinator.workers import FoundWorker

MARGIN_BYTES = 64 << 20
"""Left free on every device beside what a stage is known to need: drivers and allocators round up."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker as the planner sees it.

    Attributes:
        free_bytes: For a new stage: its share of what is free on its device.
        reserve_bytes: Of these, not for weights and KV: compute buffers and margin.
        holds_input: Whether the token embedding lies in the same memory (CPU); llama.cpp keeps it off GPUs.
        held_bytes: Held on the device by stages that a new load replaces, this worker's own.
        others_bytes: Of the device, what other workers on it may have.
        speed: As measured; None: it could not be.
    """

    name: str
    address: str
    device: str
    free_bytes: int
    reserve_bytes: int = 0
    holds_input: bool = True
    held_bytes: int = 0
    others_bytes: int = 0
    speed: Speed | None = None

    @property
    def capacity_bytes(self) -> int:
        """For weights and KV."""
        return max(0, self.free_bytes - self.reserve_bytes)

    def share_of(self, free_bytes: int) -> int:
        """What this one may count on when it says that so much is free."""
        return max(0, free_bytes + self.held_bytes - self.others_bytes)


def candidates_of(
    workers: Sequence[FoundWorker],
    *,
    compute_bytes: Mapping[str, int],
    speeds: Mapping[str, Speed] = {},
    shared: bool = True,
) -> tuple[list[Candidate], list[str]]:
    """The workers as candidates, in the same order, and sentences about those left out here.

    Workers on one device of one machine (two on a CPU, say) each report the same free bytes: they share them. If they
    may not, the one that may have most has all.

    Args:
        compute_bytes: By worker name, the compute buffers that any stage has there; 0 where that is not known.
        speeds: By worker name, as far as measured.
        shared: Whether several workers on one device may take part.
    """
    groups: dict[tuple[str, str], list[FoundWorker]] = {}
    for worker in workers:
        groups.setdefault((worker.host_name, worker.device.name), []).append(worker)
    sharers = {place: group if shared else [max(group, key=_own_bytes)] for place, group in groups.items()}
    shares = {name: share for group in sharers.values() for name, share in _shares(group).items()}
    notes = [
        f"left out: {worker.name}: it computes on the same {worker.device.name} as {sharers[place][0].name}, which can "
        "have all of its memory (--distribution on uses both)"
        for place, group in groups.items()
        for worker in group
        if worker.name not in shares
    ]
    candidates = [
        Candidate(
            name=worker.name,
            address=worker.address,
            device=worker.device.name,
            free_bytes=shares[worker.name],
            reserve_bytes=compute_bytes.get(worker.name, 0) + MARGIN_BYTES,
            holds_input=worker.device.is_cpu,
            held_bytes=_held_bytes(worker),
            others_bytes=_own_bytes(worker) - shares[worker.name],
            speed=speeds.get(worker.name),
        )
        for worker in workers
        if worker.name in shares
    ]
    return candidates, notes


def _shares(sharers: Sequence[FoundWorker]) -> dict[str, int]:
    """What each worker on one device may count on: as much as the others, unless it says that it may have less, which
    leaves more to them."""
    left_bytes = min(worker.device.shared_free_bytes for worker in sharers) + sum(map(_held_bytes, sharers))
    shares = {}
    for n_done, worker in enumerate(sorted(sharers, key=_own_bytes)):
        shares[worker.name] = min(_own_bytes(worker), left_bytes // (len(sharers) - n_done))
        left_bytes -= shares[worker.name]
    return shares


def _own_bytes(worker: FoundWorker) -> int:
    """What a worker may have for a new load, if it has its device to itself."""
    return worker.device.free_bytes + _held_bytes(worker)


def _held_bytes(worker: FoundWorker) -> int:
    """What a new load there frees."""
    return sum(stage.memory.device_bytes for stage in worker.loaded)


def dealt(candidates: Sequence[Candidate], n_groups: int) -> list[list[Candidate]]:
    """Everybody in one of so many groups, of about the same capacity; the order within a group is the given one."""
    groups: list[list[int]] = [[] for _ in range(n_groups)]
    room = [0] * n_groups
    for index in sorted(range(len(candidates)), key=lambda index: -candidates[index].capacity_bytes):
        smallest = room.index(min(room))
        groups[smallest].append(index)
        room[smallest] += candidates[index].capacity_bytes
    return [[candidates[index] for index in sorted(group)] for group in groups]
