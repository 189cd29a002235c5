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
            if not _do_alike(problem, index, better, layers):
                continue
            if moved is not None and not _do_alike(problem, better, index, moved):
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
        _facts(problem.machines[one]) == _facts(problem.machines[other])
        and problem.machines[one].pinned is problem.machines[other].pinned is None
        and (problem.entry_s[one], problem.exit_s[one]) == (problem.entry_s[other], problem.exit_s[other])
        and hops[one][other] == hops[other][one]
        and all(hops[one][i] == hops[other][i] and hops[i][one] == hops[i][other] for i in others)
    )


def _facts(machine: Machine) -> tuple[object, ...]:
    """Its times, and where it may be in a line."""
    host_layer_s = machine.host_layer_s or machine.layer_s
    return machine.layer_s, host_layer_s, machine.output_s, machine.step_s, machine.within, machine.is_main


def _do_alike(problem: Problem, holder: int, other: int, layers: LayerRange) -> bool:
    """Whether the range of one fits the other too, with the same experts in system memory."""
    return problem.experts_from(other, layers) == problem.experts_from(holder, layers)
