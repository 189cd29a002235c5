# SPDX-License-Identifier: MIT
"""One stage more: from the least cost of covering the layers before each start to that of covering those before each
end.

Where a stage's time is its end's less its begin's, the best of the allowed starts for a machine and an end, which are a
window, is a range minimum: two look-ups in a table of minima over powers of two (a sparse table). Where experts of
first layers may lie in system memory it is not, and every start is looked at.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from coordinator.search.arrays import Arrays, Bools, Floats, Ints


class Extension(Protocol):
    """The stages that may be, and what each costs."""

    def extended(self, starts: Floats, machines: Ints) -> Floats:
        """The least cost of covering the layers before each end, the last ones on these machines, as [row, end].

        Args:
            starts: The least cost of arriving at them with the layers before each start covered, as [row, start].
            machines: Of each row.
        """

    def best_start(self, starts: Floats, machine: int, end: int) -> int:
        """Where the range begins that makes the least of `extended`, for one row of it."""


def extension_of(arrays: Arrays, may: Bools, bonus_s: float) -> Extension:
    """By stages that may be, as [machine, start, end]; each costs its time less a bonus."""
    return _Windows(arrays, may, bonus_s) if arrays.is_separable else _Everything(arrays, may, bonus_s)


class _Windows:
    """By range minima."""

    def __init__(self, arrays: Arrays, may: Bools, bonus_s: float) -> None:
        self._may = may
        self._begin_s = arrays.begin_s
        self._end_s = arrays.end_s - bonus_s
        # Later starts mean fewer layers, which are quicker: what a limit on stages leaves of a window is a window.
        n_starts = may.sum(axis=1)
        level = np.frexp(n_starts)[1] - 1
        self._n_ends = n_starts.shape[1]
        self._n_levels = max(1, int(level.max()) + 1)
        nowhere = self._n_levels * self._n_ends
        left = level * self._n_ends + may.argmax(axis=1)
        self._left = np.where(n_starts > 0, left, nowhere)
        self._right = np.where(n_starts > 0, left + n_starts - (1 << np.maximum(level, 0)), nowhere)

    def extended(self, starts: Floats, machines: Ints) -> Floats:
        n = self._n_ends
        # One column more, for the ends that no start is allowed for.
        table = np.full((len(machines), self._n_levels * n + 1), np.inf)
        below = table[:, :n]
        np.subtract(starts, self._begin_s[machines], out=below)
        for level in range(1, self._n_levels):
            width, row = 1 << (level - 1), table[:, level * n : (level + 1) * n]
            np.minimum(below[:, :-width], below[:, width:], out=row[:, :-width])
            below = row
        rows = np.arange(len(machines))[:, None] * table.shape[1]
        left, right = table.take(self._left[machines] + rows), table.take(self._right[machines] + rows)
        extended: Floats = np.minimum(left, right) + self._end_s[machines]
        return extended

    def best_start(self, starts: Floats, machine: int, end: int) -> int:
        return int(np.where(self._may[machine, :, end], starts - self._begin_s[machine], np.inf).argmin())


class _Everything:
    """By the cost of every stage."""

    def __init__(self, arrays: Arrays, may: Bools, bonus_s: float) -> None:
        self._cost_s = np.where(may, arrays.stage_s - bonus_s, np.inf)

    def extended(self, starts: Floats, machines: Ints) -> Floats:
        extended = np.empty_like(starts)
        # Machine by machine: a copy of the costs for every row would take three times as long.
        for machine in np.unique(machines):
            rows = np.flatnonzero(machines == machine)
            extended[rows] = (starts[rows][:, :, None] + self._cost_s[machine]).min(axis=1)
        return extended

    def best_start(self, starts: Floats, machine: int, end: int) -> int:
        return int((starts + self._cost_s[machine, :, end]).argmin())
