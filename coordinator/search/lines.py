# SPDX-License-Identifier: MIT
"""Which lines a search goes through: all of them here, some of them in `orders`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from coordinator.search.problem import Problem, Stages
from coordinator.search.sweep import Graph, Sweep, graph_of_sets


@dataclass(frozen=True, slots=True)
class Line:
    """What a sweep ends in: stages, and their cost as the sweep counts it."""

    cost_s: float
    stages: Stages


class Lines(Protocol):
    """The lines that are gone through."""

    def least(self, sweep: Sweep, goal_s: float, *, is_probe: bool) -> Line | None:
        """The one that costs least, or any that costs no more than the goal, if there is one at all. A probe asks only
        whether the goal can be reached."""


class AllLines:
    """Every set of machines in every order."""

    def __init__(self, problem: Problem) -> None:
        self._graph = graph_of_sets(len(problem.machines), problem.most_stages)

    def least(self, sweep: Sweep, goal_s: float, *, is_probe: bool) -> Line | None:
        return least_line(sweep, self._graph)


def least_line(sweep: Sweep, graph: Graph) -> Line | None:
    """The line of a graph of one block that costs least, if one covers all layers."""
    reached = sweep.run(graph)
    cost_s = float(sweep.costs_of(graph, reached)[0])
    return Line(cost_s, sweep.stages_of(graph, reached)) if cost_s < sweep.arrays.span_s else None
