# SPDX-License-Identifier: MIT
"""The workers as the planner sees them: what each can give, and what those on one device or one machine share. Pure.

System memory for experts is shared as devices are: the workers of a machine that may use some get about as much each.
How much there is nobody says for sure, so it is taken for what is free to a CPU worker of that machine, or else for the
most that one of them alone may use. Where experts lie there, a CPU worker has of its own memory what they leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.prediction import STAGE_OVERHEAD_S
from coordinator.speed import Speed
from coordinator.workers import FoundWorker

MARGIN_BYTES = 64 << 20
"""Left free on every device, and of system memory for experts, beside what a stage is known to need: drivers and
allocators round up."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker as the planner sees it.

    Attributes:
        address: Where it is reached; empty for a machine that one does not have.
        free_bytes: For a new stage: its share of what is free on its device.
        reserve_bytes: Of these, not for weights and KV: compute buffers and margin.
        holds_input: Whether the token embedding lies in the same memory (CPU); llama.cpp keeps it off GPUs.
        held_bytes: Held on the device by stages that a new load replaces, this worker's own.
        others_bytes: Of the device, what other workers on it may have.
        speed: As measured; None: it could not be.
        speed_factor: How many times as long as measured `speed` says, as earlier runs taught.
        overhead_s: What handing on a frame takes.
        host: Its machine; empty if that is not known.
        host_free_bytes: Its share of the machine's memory, beside the device, for experts.
        host_reserve_bytes: Of these, not for experts.
        unused_bytes: On a CPU: what is free there beyond what its workers may use.
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
    host: str = ""
    host_free_bytes: int = 0
    host_reserve_bytes: int = 0
    unused_bytes: int = 0
    speed_factor: float = 1.0
    overhead_s: float = STAGE_OVERHEAD_S

    @property
    def is_cpu(self) -> bool:
        """Whether its device's memory is the machine's own."""
        return self.holds_input

    @property
    def capacity_bytes(self) -> int:
        """For weights and KV."""
        return max(0, self.free_bytes - self.reserve_bytes)

    @property
    def host_capacity_bytes(self) -> int:
        """For experts, in system memory."""
        return max(0, self.host_free_bytes - self.host_reserve_bytes)

    def share_of(self, free_bytes: int) -> int:
        """What this one may count on when it says that so much is free."""
        return max(0, free_bytes + self.held_bytes - self.others_bytes)


def candidates_of(
    workers: Sequence[FoundWorker],
    *,
    compute_bytes: Mapping[str, int],
    speeds: Mapping[str, Speed] = {},
    shared: bool = True,
    main: str | None = None,
) -> tuple[list[Candidate], list[str]]:
    """The workers as candidates, in the same order, and sentences about those left out here.

    Workers on one device of one machine (two on a CPU, say) each report the same free bytes: they share them. If they
    may not, the one that may have most has all.

    Args:
        compute_bytes: By worker name, the compute buffers that any stage has there; 0 where that is not known.
        speeds: By worker name, as far as measured.
        shared: Whether several workers on one device may take part.
        main: Who is to take part in any case.
    """
    groups: dict[tuple[str, str], list[FoundWorker]] = {}
    for worker in workers:
        groups.setdefault((worker.host_name, worker.device.name), []).append(worker)

    def rank(worker: FoundWorker) -> tuple[bool, int]:
        return worker.name == main, _own_bytes(worker)

    sharers = {place: group if shared else [max(group, key=rank)] for place, group in groups.items()}
    shares = {name: share for group in sharers.values() for name, share in _shares(group).items()}
    notes = [
        f"left out: {worker.name}: it computes on the same {worker.device.name} as {sharers[place][0].name}, which can "
        "have all of its memory (--distribution on uses both)"
        for place, group in groups.items()
        for worker in group
        if worker.name not in shares
    ]
    kept = [worker for worker in workers if worker.name in shares]
    host_shares = _host_shares(kept)
    unused_bytes = _unused_bytes(sharers.values(), shares)
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
            host=worker.host_name,
            host_free_bytes=host_shares[worker.name],
            host_reserve_bytes=MARGIN_BYTES,
            unused_bytes=unused_bytes.get(worker.name, 0),
        )
        for worker in kept
    ]
    return candidates, notes


def beside_experts(candidates: Sequence[Candidate], most_bytes: int) -> list[Candidate]:
    """The candidates as they are when experts may lie in system memory: a CPU worker has so much less as those of the
    workers on its machine, its own among them, may take of what would be its.

    Args:
        most_bytes: Of all experts; nobody needs more.
    """
    return [
        replace(each, free_bytes=max(0, each.free_bytes - _taken(each, candidates, most_bytes))) for each in candidates
    ]


def _taken(candidate: Candidate, candidates: Sequence[Candidate], most_bytes: int) -> int:
    """Of a CPU worker's memory; what its machine has beyond that goes first."""
    if not candidate.is_cpu:
        return 0
    neighbours = [each for each in candidates if each is candidate or (each.host and each.host == candidate.host)]
    users = [each for each in neighbours if each.host_free_bytes]
    beside_bytes = sum(each.host_reserve_bytes for each in users)
    taken_bytes = min(sum(each.host_free_bytes for each in users), most_bytes + beside_bytes)
    return max(0, taken_bytes - candidate.unused_bytes)


def _shares(sharers: Sequence[FoundWorker]) -> dict[str, int]:
    """What each worker on one device may count on."""
    left_bytes = min(worker.device.shared_free_bytes for worker in sharers) + sum(map(_held_bytes, sharers))
    return _dealt_out(left_bytes, sharers, _own_bytes)


def _host_shares(workers: Sequence[FoundWorker]) -> dict[str, int]:
    """What each may count on of its machine's memory, for experts."""
    hosts: dict[str, list[FoundWorker]] = {}
    for worker in workers:
        hosts.setdefault(worker.host_name, []).append(worker)
    shares: dict[str, int] = {}
    for residents in hosts.values():
        on_cpu = [worker.device.shared_free_bytes + _held_bytes(worker) for worker in residents if worker.device.is_cpu]
        left_bytes = max([*map(_own_host_bytes, residents), *on_cpu])
        shares |= _dealt_out(left_bytes, residents, _own_host_bytes)
    return shares


def _dealt_out(
    left_bytes: int, sharers: Sequence[FoundWorker], own_bytes: Callable[[FoundWorker], int]
) -> dict[str, int]:
    """To each as much as to the others, unless it may have less, which leaves more to them."""
    shares = {}
    for n_done, worker in enumerate(sorted(sharers, key=own_bytes)):
        shares[worker.name] = min(own_bytes(worker), left_bytes // (len(sharers) - n_done))
        left_bytes -= shares[worker.name]
    return shares


def _unused_bytes(groups: Iterable[Sequence[FoundWorker]], shares: Mapping[str, int]) -> dict[str, int]:
    """Of each device, what is free beyond what its workers may use, by the name of each of these."""
    unused: dict[str, int] = {}
    for group in groups:
        free_bytes = min(worker.device.shared_free_bytes for worker in group) + sum(map(_held_bytes, group))
        left_bytes = max(0, free_bytes - sum(shares[worker.name] for worker in group))
        unused |= {worker.name: left_bytes for worker in group}
    return unused


def _own_bytes(worker: FoundWorker) -> int:
    """What a worker may have for a new load, if it has its device to itself."""
    return worker.device.free_bytes + _held_bytes(worker)


def _own_host_bytes(worker: FoundWorker) -> int:
    """What a worker may have of system memory beside its device for a new load, if it has the machine to itself."""
    if not worker.device.host_free_bytes:
        return 0
    return worker.device.host_free_bytes + sum(stage.memory.host_bytes for stage in worker.loaded)


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
