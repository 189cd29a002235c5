# SPDX-License-Identifier: MIT
"""Why a plan is as it is: its headline, and the reason of everybody whom it leaves out. Pure; the planner calls it."""

from __future__ import annotations

from coordinator.chooser import Chooser, line_of
from coordinator.plan import in_ram
from coordinator.prediction import Prediction
from coordinator.search import EXACT_MACHINES, Objective, Solution
from coordinator.wishes import Distribution
from protos.sizes import size


def headline(chooser: Chooser, solution: Solution) -> str:
    """The first thing to know: whether it is split, and why, and whether memory does not suffice; empty if the user
    knows."""
    line = line_of(solution)
    n_hosted = sum(chooser.demand.n_cpu_moe(laid.layers, laid.experts_from) for laid in line)
    short = f"device memory does not suffice: {in_ram(n_hosted)}" if n_hosted else ""
    return "; ".join(part for part in (_split(chooser, solution), short) if part)


def _split(chooser: Chooser, solution: Solution) -> str:
    wishes, n_stages = chooser.wishes, len(solution.stages)
    if n_stages == 1:
        if len(chooser.candidates) == 1 or wishes.distribution is Distribution.OFF:
            return ""
        name = chooser.candidates[solution.stages[0][0]].name
        return f"not split: {name} can hold it all, and one stream is fastest there"
    if wishes.distribution is Distribution.ON or wishes.pinned or wishes.main or wishes.gpu_layers is not None:
        return ""
    if chooser.alone() is not None:
        return f"split over {n_stages} devices, because that is faster than one alone"
    return f"split over {n_stages} devices, because none can hold it alone"


def left_out(chooser: Chooser, solution: Solution, prediction: Prediction | None) -> list[tuple[str, str]]:
    """Everybody who takes no part, by name, and why."""
    used = {index for index, _ in solution.stages}
    return [
        (candidate.name, _why(chooser, index, solution, prediction))
        for index, candidate in enumerate(chooser.candidates)
        if index not in used
    ]


def _why(chooser: Chooser, index: int, solution: Solution, prediction: Prediction | None) -> str:
    candidate, demand, wishes = chooser.candidates[index], chooser.demand, chooser.wishes
    if wishes.place_of(candidate, demand.n_layer) is None:
        return f"no layer is to lie on {'CPUs' if candidate.is_cpu else 'GPUs'} (--gpu-layers {wishes.gpu_layers})"
    smallest = _smallest_layer_bytes(chooser, index)
    room = (
        f"it can give {size(candidate.capacity_bytes)} of {size(candidate.free_bytes)} free, and one layer "
        f"with its KV cache takes {size(smallest)}"
    )
    if candidate.capacity_bytes < smallest:
        return room
    members = [*(used for used, _ in solution.stages), index]
    with_it = None
    if prediction is not None and len(members) <= EXACT_MACHINES:
        with_it = chooser.best(members, wishes.objective, use_all=True)
    if with_it is None or len(with_it.stages) < len(members):
        machine = chooser.machine(index, 1)
        first, last = size(smallest + machine.input_bytes), size(smallest + machine.output_bytes)
        return f"no layer for it fits beside the others': {room} ({first} at the start of the line, {last} at its end)"
    predicted = chooser.predicted(line_of(with_it))
    if prediction is None or predicted is None:
        return "the model fits without it"
    if wishes.objective is Objective.LATENCY:
        return (
            f"the model fits without it, and with it one stream would make {predicted.tokens_per_s:.1f} tokens per "
            f"second instead of {prediction.tokens_per_s:.1f}"
        )
    return "the model fits without it, and with it the slowest stage would be no faster"


def _smallest_layer_bytes(chooser: Chooser, index: int) -> int:
    """Of any layer on the candidate's device; its experts may lie elsewhere if that must be."""
    can_host = chooser.must_host and chooser.candidates[index].host_capacity_bytes > 0
    return min(
        layer.weights_bytes + layer.kv_bytes - (layer.expert_bytes if can_host else 0)
        for layer in chooser.demand.costs.layers
    )
