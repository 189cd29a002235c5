# SPDX-License-Identifier: MIT
"""What stages really take, and which lines are possible, found out without the planner: for the tests that hold plans
against it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import combinations, permutations
from pathlib import Path

import psutil

from coordinator.candidates import MARGIN_BYTES
from coordinator.opening import plan_mesh
from coordinator.options import MeshOptions
from coordinator.plan import Plan
from native import ContextParams, LayerRange, dry_run, read_layout
from tests.line.processes import WorkerProcess

MIB = 1 << 20


def own_bytes(worker: WorkerProcess) -> int:
    """What a worker's process holds for itself alone: neither shared libraries nor the file's pages."""
    return int(psutil.Process(worker.pid).memory_full_info().uss)


def plan_alone(options: MeshOptions) -> Plan:
    """The plan as it is before anything is loaded."""
    (plan,) = asyncio.run(plan_mesh(options, lambda _: None))
    return plan


class PossibleLines:
    """Which workers can form a line with these limits, by this machine's own dry runs. All inner layers are alike."""

    def __init__(self, path: Path, params: ContextParams, limits: Mapping[str, int]) -> None:
        self._n_layer = read_layout(path).n_layer
        self._limits = limits
        self._bytes: Callable[[LayerRange], int] = cache(
            lambda layers: dry_run(path, layers, "CPU", params).device_bytes + MARGIN_BYTES
        )

    def most_stages(self) -> int:
        """Of any line; 0: there is none."""
        for n_stages in range(len(self._limits), 0, -1):
            orders = (order for some in combinations(self._limits, n_stages) for order in permutations(some))
            if any(self._is_possible(order) for order in orders):
                return n_stages
        return 0

    def _is_possible(self, order: Sequence[str]) -> bool:
        most = [self._most_layers(self._limits[name], i, len(order)) for i, name in enumerate(order)]
        return min(most) > 0 and sum(most) >= self._n_layer

    def _most_layers(self, limit_bytes: int, place: int, n_stages: int) -> int:
        """That fit within the limit at this place of a line."""
        n_most = self._n_layer - n_stages + 1
        ranges = [self._range(place, n_stages, n) for n in range(1, n_most + 1)]
        low, high = 0, n_most
        while low < high:
            middle = (low + high + 1) // 2
            fits = self._bytes(ranges[middle - 1]) <= limit_bytes
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def _range(self, place: int, n_stages: int, n: int) -> LayerRange:
        if place == n_stages - 1:
            return LayerRange(self._n_layer - n, self._n_layer)
        return LayerRange(place, place + n)
