# SPDX-License-Identifier: MIT
"""What to say where no line has room for a model: how much is missing, on whom, and what helps. Pure; the planner's.

What costs nothing but speed is told first, experts in system memory before whole layers on a CPU, and only if there is
a line like that: the search is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coordinator.candidates import MARGIN_BYTES, Candidate
from coordinator.chooser import Chooser, line_of
from coordinator.errors import DoesNotFitError
from coordinator.plan import Demand
from coordinator.remedies import remedies
from coordinator.search import EXACT_MACHINES, Objective, Solution
from coordinator.speed import Curve, Speed
from protos.sizes import size

_PLENTY_BYTES = 1 << 50
"""More than anybody has."""

_BESIDE_BYTES = 32 << 20
"""Of system memory, for llama.cpp's own buffers beside experts; the dry run tells how many."""

_RELUCTANT_S = 10.0
"""Per layer, of a machine that is to get as few as possible."""


def does_not_fit(chooser: Chooser) -> DoesNotFitError:
    """The error for a model that cannot be laid over these candidates as is wished for."""
    demand, most = chooser.demand, chooser.wishes.most_stages
    needed_bytes = demand.weights_bytes + demand.kv_bytes
    rooms = sorted((_room_bytes(each, demand) for each in chooser.candidates), reverse=True)
    available_bytes = sum(rooms[:most])
    each = ", ".join(
        f"{candidate.name} {size(candidate.capacity_bytes)} of {size(candidate.free_bytes)} free"
        f"{ram_of(candidate, demand)}"
        for candidate in chooser.candidates
    )
    who = (
        "together the workers" if most is None else "the largest worker" if most == 1 else f"the {most} largest workers"
    )
    missing_bytes = needed_bytes - available_bytes
    problem = (
        f"{who} can give {size(available_bytes)}, {size(missing_bytes)} too little"
        if missing_bytes > 0
        else "it cannot be cut so that each part fits"
    )
    return DoesNotFitError(
        f"{demand.model} needs {size(needed_bytes)} ({size(demand.weights_bytes)} of weights, "
        f"{size(demand.kv_bytes)} of KV cache for {demand.n_sequences} x {demand.n_ctx} tokens) and {problem} "
        f"(after compute buffers and margin: {each}): {remedies(demand, missing_bytes, _better_ways(chooser))}",
        needed_bytes=needed_bytes,
        available_bytes=available_bytes,
    )


def ram_of(candidate: Candidate, demand: Demand) -> str:
    """What a candidate has beside its device, as part of a sentence; empty if nothing that helps."""
    n_bytes = min(candidate.host_capacity_bytes, demand.expert_bytes)
    return f" and {size(n_bytes)} of RAM for experts" if n_bytes else ""


def _room_bytes(candidate: Candidate, demand: Demand) -> int:
    return candidate.capacity_bytes + min(candidate.host_capacity_bytes, demand.expert_bytes)


def _better_ways(chooser: Chooser) -> list[str]:
    """What costs nothing but speed: no wishes, and beside GPUs as much of the machine's memory as would do."""
    options = {"--main": chooser.wishes.main, "--gpu-layers": chooser.wishes.gpu_layers}
    given = [name for name, value in options.items() if value is not None]
    if given:
        free = replace(chooser, wishes=replace(chooser.wishes, main=None, gpu_layers=None))
        if free.best(free.everybody, Objective.LATENCY) is not None:
            return [f"let the planner choose (leave out {' and '.join(given)})"]
    gpus = [index for index, each in enumerate(chooser.candidates) if each.address and not each.is_cpu]
    gpus.sort(key=lambda index: -chooser.candidates[index].capacity_bytes)
    if not gpus:
        return []
    ways = (_more_ram(chooser, gpus), _cpu_worker(chooser, gpus))
    return [way for way in ways if way is not None]


def _more_ram(chooser: Chooser, gpus: Sequence[int]) -> str | None:
    """Experts in system memory, of as few workers with a GPU as will do, the largest first."""
    if not chooser.demand.expert_bytes:
        return None
    best = _with_ram(chooser, gpus)
    if best is None:
        return None
    low, high = 1, len(gpus)
    while low < high:
        middle = (low + high) // 2
        solution = _with_ram(chooser, gpus[:middle])
        if solution is None:
            low = middle + 1
        else:
            high, best = middle, solution
    return _ram_for(chooser, best, gpus[:high])


def _with_ram(chooser: Chooser, some: Sequence[int]) -> Solution | None:
    """The best line if these may have all of their machines' memory for experts."""
    generous = [
        replace(each, host_free_bytes=_most_ram(chooser, each)) if index in some else each
        for index, each in enumerate(chooser.candidates)
    ]
    other = replace(chooser, candidates=generous)
    return other.solved(other.everybody, Objective.LATENCY, hosted=True)


def _most_ram(chooser: Chooser, candidate: Candidate) -> int:
    """What its machine may have: what a CPU worker tells of it, or else plenty."""
    told = [each for each in chooser.candidates if each.is_cpu and each.host and each.host == candidate.host]
    return max((each.free_bytes + each.unused_bytes for each in told), default=_PLENTY_BYTES)


def _ram_for(chooser: Chooser, solution: Solution, some: Sequence[int]) -> str | None:
    demand, asked = chooser.demand, list[str]()
    for laid in line_of(solution):
        n_cpu_moe = demand.n_cpu_moe(laid.layers, laid.experts_from)
        if n_cpu_moe and laid.index in some:
            candidate = chooser.candidates[laid.index]
            n_bytes = demand.stage_memory(laid.layers, n_cpu_moe=n_cpu_moe).host_bytes
            n_bytes += demand.costs.input_bytes if laid.layers.start == 0 else 0
            option = f"--ram {_rounded_up(n_bytes + max(candidate.host_reserve_bytes, MARGIN_BYTES + _BESIDE_BYTES))}"
            asked.append(f"{candidate.name} {option} for experts (now {size(candidate.host_free_bytes)})")
    return f"give worker{'s' if len(asked) > 1 else ''} {' and '.join(asked)}" if asked else None


def _cpu_worker(chooser: Chooser, gpus: Sequence[int]) -> str | None:
    """Whole layers on a CPU, of a machine where no worker is on it yet."""
    taken = {each.host for each in chooser.candidates if each.is_cpu}
    hosts = [chooser.candidates[index].host for index in gpus if chooser.candidates[index].host not in taken]
    if not hosts or len(chooser.candidates) >= EXACT_MACHINES or chooser.wishes.gpu_layers is not None:
        return None
    demand = chooser.demand
    reserve_bytes = max(each.reserve_bytes for each in chooser.candidates)
    slow = Speed((0,) * demand.n_layer, (Curve(((1, _RELUCTANT_S),)),), Curve(((1, _RELUCTANT_S),)))
    new = Candidate("", "", "CPU", _PLENTY_BYTES, reserve_bytes, speed=slow)
    other = replace(chooser, candidates=[*chooser.candidates, new])
    solution = other.best(other.everybody, Objective.LATENCY)
    n_bytes = 0
    for laid in () if solution is None else line_of(solution):
        if laid.index == len(chooser.candidates):
            n_bytes = demand.stage_memory(laid.layers).total_bytes + reserve_bytes
    if not n_bytes:
        return None
    where = f" on {hosts[0]}" if hosts[0] else ""
    return f"start a CPU worker{where} with {size(n_bytes)} free (caravan worker --device CPU)"


def _rounded_up(n_bytes: int) -> str:
    """As an option takes it: whole GiB, below one of them whole MiB."""
    unit, name = (1 << 30, "GiB") if n_bytes >= 1 << 30 else (1 << 20, "MiB")
    return f"{-(-n_bytes // unit)}{name}"
