# SPDX-License-Identifier: MIT
"""The search itself: the least latency or the least bottleneck.

Both rest on the sweep, which finds the least latency under a limit on every stage. The first key of the objective says
which limits will do; the lowest of them gives the second key its due.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from coordinator.search.arrays import arrays_of
from coordinator.search.equals import in_given_order
from coordinator.search.lines import AllLines, Line, Lines
from coordinator.search.orders import SomeLines
from coordinator.search.problem import Objective, Problem, Solution, Stages
from coordinator.search.sweep import Sweep
from native import LayerRange

EXACT_MACHINES = 8
"""Up to so many all lines are gone through: 1024 nodes of a graph."""

_ROUNDING = 1e-13
"""Times this close, relatively, are equal: sums in another order differ by as much."""


def solve(problem: Problem, objective: Objective, *, use_all: bool = False) -> Solution | None:
    """The best line, or None where none was found: `solve_exactly` up to `EXACT_MACHINES`, else `solve_by_orders`.

    Args:
        use_all: Whatever the objective, as many machines as possible; of such lines those with the least bottleneck, of
            those the one with the least latency.
    """
    solver = solve_exactly if len(problem.machines) <= EXACT_MACHINES else solve_by_orders
    return solver(problem, objective, use_all=use_all)


def solve_exactly(problem: Problem, objective: Objective, *, use_all: bool = False) -> Solution | None:
    """The best of all lines, for a few machines: time and memory grow with 2^machines.

    None means that there is no line. Latencies that differ by no more than rounding count as equal.
    """
    return _solve(problem, AllLines(problem), objective, use_all)


def solve_by_orders(problem: Problem, objective: Objective, *, use_all: bool = False) -> Solution | None:
    """A good line, for many machines: the best sets and cuts of some orders, looked for from a few good ones.

    What is guaranteed: by what is to be least first, no order that the search begins with (by capacity, by speed, by
    nearness; with `max_stages` the first so many) has a better line. If all layers have the same bytes and experts,
    everybody may be anywhere and reaches everybody, a line is found whenever there is one. Otherwise None means that no
    order gone through has room: layers that differ in size, and pins, make that as hard as packing bins.
    """
    return _solve(problem, SomeLines(problem), objective, use_all)


def _solve(problem: Problem, lines: Lines, objective: Objective, use_all: bool) -> Solution | None:
    if problem.most_stages == 0:
        return None
    arrays = arrays_of(problem)
    by_latency = objective is Objective.LATENCY and not use_all
    bonus_s = arrays.span_s if use_all else 0.0

    def least(limit_s: float, goal_s: float, *, is_probe: bool = False) -> Line | None:
        return lines.least(Sweep(arrays, limit_s, bonus_s), goal_s, is_probe=is_probe)

    def any_with(n_stages: int) -> float:
        """A cost that every line with so many stages stays below, and with a bonus none with fewer."""
        return arrays.span_s / 2 - n_stages * bonus_s

    first = least(math.inf, -math.inf if by_latency else any_with(problem.most_stages))
    if first is None:
        return None
    enough_s = first.cost_s * (1 + _ROUNDING) if by_latency else any_with(len(first.stages))

    def is_enough(limit_s: float) -> bool:
        line = least(limit_s, enough_s, is_probe=True)
        return line is not None and line.cost_s <= enough_s

    limit_s = _first_enough(arrays.stage_times_up_to(first.stages), is_enough) * (1 + _ROUNDING)
    best = least(limit_s, enough_s if by_latency else -math.inf)
    assert best is not None, "a line that keeps this limit was found"
    return _solution(problem, in_given_order(problem, best.stages))


def _first_enough(limits: Sequence[float], is_enough: Callable[[float], bool]) -> float:
    """The lowest of ascending limits that is enough. The last one is known to be, and often nothing less is: the one
    before it is asked about first."""
    low, high = 0, len(limits) - 1
    probe = high - 1
    while low < high:
        if is_enough(limits[probe]):
            high = probe
        else:
            low = probe + 1
        probe = (low + high) // 2
    return limits[high]


def _solution(problem: Problem, stages: Stages) -> Solution:
    starts = [problem.experts_from(index, layers) for index, layers in stages]
    experts_from = tuple(start for start in starts if start is not None)
    assert len(experts_from) == len(stages), "every stage fits its machine"
    stage_s = [
        _stage_s(problem, index, layers, start) for (index, layers), start in zip(stages, experts_from, strict=True)
    ]
    order = [index for index, _ in stages]
    hops_s = [problem.hop_s[a][b] for a, b in pairwise(order)]
    latency_s = math.fsum([problem.entry_s[order[0]], *stage_s, *hops_s, problem.exit_s[order[-1]]])
    return Solution(stages, latency_s, max(stage_s), experts_from)


def _stage_s(problem: Problem, index: int, layers: LayerRange, experts_from: int) -> float:
    machine = problem.machines[index]
    on_host_s = (machine.host_layer_s or machine.layer_s)[layers.start : experts_from]
    on_device_s = machine.layer_s[experts_from : layers.end]
    output_s = machine.output_s if layers.end == len(problem.layer_bytes) else 0.0
    return math.fsum([*on_host_s, *on_device_s, machine.step_s, output_s])
