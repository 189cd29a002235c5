# SPDX-License-Identifier: MIT
"""The least latency of covering the first so many layers with a line that ends in a given node: a machine in its place.

A node is reached from those that may come before it. A stage on it extends what those cover by any range that fits the
machine and takes no longer than a limit (`extension`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from coordinator.search.arrays import Arrays, Bools, Floats, Ints
from coordinator.search.extension import extension_of
from coordinator.search.problem import Stages
from native import LayerRange


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Lines as paths from node to node.

    Attributes:
        machines: Of each node.
        levels: Nodes, and for each of them those that may come before it; all of these lie in earlier levels.
        n_blocks: The nodes are so many equal blocks, each a graph of its own.
    """

    machines: Ints
    levels: tuple[tuple[Ints, Ints], ...]
    n_blocks: int = 1


def graph_of_sets(n_machines: int, most_stages: int) -> Graph:
    """All lines: a node for each set of machines and the one of them that comes last."""
    levels = []
    for n_stages in range(1, most_stages + 1):
        nodes, before = [], []
        for members in combinations(range(n_machines), n_stages):
            together = sum(1 << member for member in members)
            for last in members:
                without = together ^ (1 << last)
                nodes.append(together * n_machines + last)
                before.append([without * n_machines + member for member in members if member != last])
        levels.append((np.array(nodes), np.array(before, np.int64)))
    return Graph(np.tile(np.arange(n_machines), 1 << n_machines), tuple(levels))


def graph_of_orders(orders: Ints) -> Graph:
    """The lines along these orders, each a row, which may leave machines out: a node for each place."""
    nodes = np.arange(orders.size).reshape(orders.shape)
    levels = tuple((nodes[:, place], nodes[:, :place]) for place in range(orders.shape[1]))
    return Graph(orders.ravel(), levels, len(orders))


class Sweep:
    """Finds the lines that cost least, where no stage takes longer than a limit. Their cost is their latency, less a
    bonus for each stage."""

    def __init__(self, arrays: Arrays, limit_s: float, bonus_s: float) -> None:
        self.arrays = arrays
        self._may = arrays.is_allowed & (arrays.stage_s <= limit_s)
        self._n_ends = self._may.shape[2]
        self._extension = extension_of(arrays, self._may, bonus_s)

    def run(self, graph: Graph) -> Floats:
        """The least cost of covering the layers before each end with a line to each node, as [node, end]."""
        reached = np.full((len(graph.machines), self._n_ends), np.inf)
        for nodes, before in graph.levels:
            machines = graph.machines[nodes]
            reached[nodes] = self._extension.extended(self._starts(graph, reached, nodes, before), machines)
        return reached

    def costs_of(self, graph: Graph, reached: Floats) -> Floats:
        """Of the best line of each of the graph's blocks, below `span_s`. Where none covers all layers: `span_s` for
        each layer that even the farthest leaves out."""
        arrays = self.arrays
        whole = (reached[:, -1] + arrays.exit_s[graph.machines]).reshape(graph.n_blocks, -1).min(axis=1)
        is_covered: Bools = np.any(np.isfinite(reached).reshape(graph.n_blocks, -1, self._n_ends), axis=1)
        n_missing = self._n_ends - 1 - (is_covered * np.arange(self._n_ends)).max(axis=1)
        costs: Floats = np.where(np.isfinite(whole), whole, arrays.span_s * np.maximum(1, n_missing))
        return costs

    def stages_of(self, graph: Graph, reached: Floats) -> Stages:
        """The best line of a graph of one block, in which one covers all layers."""
        arrays = self.arrays
        node = int((reached[:, -1] + arrays.exit_s[graph.machines]).argmin())
        end = self._n_ends - 1
        stages: list[tuple[int, LayerRange]] = []
        for nodes, before in reversed(graph.levels):
            place = np.flatnonzero(nodes == node)
            if not place.size or end == 0:
                continue
            machine, before = int(graph.machines[node]), before[place[0]]
            costs = self._starts(graph, reached, nodes[place], before[None])[0]
            start = self._extension.best_start(costs, machine, end)
            stages.append((machine, LayerRange(start, end)))
            end = start
            if start > 0:
                hop_s = arrays.hop_s[graph.machines[before], machine]
                node = int(before[(reached[before, start] + hop_s).argmin()])
        return tuple(reversed(stages))

    def rooms(self) -> tuple[Ints, Ints, Ints]:
        """How many layers each machine can hold at most as the first of several stages, between others, as the last."""
        n_layer = self._n_ends - 1
        firsts = (self._may[:, 0, :n_layer] * np.arange(n_layer)).max(axis=1)
        between = self._may[:, 1:, :n_layer].sum(axis=1).max(axis=1)
        lasts = self._may[:, 1:, n_layer].sum(axis=1)
        return firsts, between, lasts

    def _starts(self, graph: Graph, reached: Floats, nodes: Ints, before: Ints) -> Floats:
        """The least cost of arriving at each node with the layers before each start covered, as [node, start]."""
        machines = graph.machines[nodes]
        hop_s = self.arrays.hop_s[graph.machines[before], machines[:, None]]
        starts: Floats = (reached.take(before, axis=0) + hop_s[:, :, None]).min(axis=1, initial=np.inf)
        starts[:, 0] = self.arrays.entry_s[machines]
        return starts
