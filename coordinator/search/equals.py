# SPDX-License-Identifier: MIT
"""Which of several machines that are as good as each other: the first in the order given comes first in the line."""

from __future__ import annotations

from coordinator.search.problem import Machine, Problem, Stages
from native import LayerRange


def in_given_order(problem: Problem, stages: Stages) -> Stages:
    """The same line with every machine's place taken by the first one that does as well there."""
    chosen = list(stages)
    for place, (index, layers) in enumerate(stages):
        taken = {other for other, _ in chosen[:place]}
        index = chosen[place][0]
        for better in range(index):
            if better in taken or not _do_equally_well(problem, index, better):
                continue
            elsewhere = next((at for at, (other, _) in enumerate(chosen) if other == better), None)
            moved = None if elsewhere is None else chosen[elsewhere][1]
            if not _fits(problem, better, layers) or (moved is not None and not _fits(problem, index, moved)):
                continue
            chosen[place] = (better, layers)
            if elsewhere is not None and moved is not None:
                chosen[elsewhere] = (index, moved)
            break
    return tuple(chosen)


def _do_equally_well(problem: Problem, one: int, other: int) -> bool:
    """Whether they take the same time, each in the other's place too."""
    hops, others = problem.hop_s, [i for i in range(len(problem.machines)) if i not in (one, other)]
    return (
        _times(problem.machines[one]) == _times(problem.machines[other])
        and problem.machines[one].pinned is problem.machines[other].pinned is None
        and (problem.entry_s[one], problem.exit_s[one]) == (problem.entry_s[other], problem.exit_s[other])
        and hops[one][other] == hops[other][one]
        and all(hops[one][i] == hops[other][i] and hops[i][one] == hops[i][other] for i in others)
    )


def _times(machine: Machine) -> tuple[object, ...]:
    return machine.layer_s, machine.output_s, machine.step_s


def _fits(problem: Problem, index: int, layers: LayerRange) -> bool:
    machine = problem.machines[index]
    n_bytes = sum(problem.layer_bytes[layers.start : layers.end])
    n_bytes += machine.input_bytes if layers.start == 0 else 0
    n_bytes += machine.output_bytes if layers.end == len(problem.layer_bytes) else 0
    return n_bytes <= machine.capacity_bytes
