# SPDX-License-Identifier: MIT
"""A problem as arrays: what every possible stage takes, and whether its machine may hold it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from coordinator.search.problem import Problem, Stages

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """Indexed by machine, by the layer that a stage starts at and by the one that it ends before, in this order.

    Attributes:
        begin_s: [machine, start]: of the layers before.
        end_s: [machine, end]: of the layers before, with what the stage takes beside its layers.
        stage_s: [machine, start, end]: the one less the other.
        is_allowed: [machine, start, end]: the range fits the machine and respects everybody's pin. For a machine and an
            end, the allowed starts follow each other.
        span_s: More than twice the latency of any line.
    """

    begin_s: Floats
    end_s: Floats
    stage_s: Floats
    is_allowed: Bools
    hop_s: Floats
    entry_s: Floats
    exit_s: Floats
    span_s: float

    def stage_times_up_to(self, stages: Stages) -> list[float]:
        """The different times of allowed stages, ascending, up to the slowest of these."""
        slowest_s = max(self.stage_s[index, layers.start, layers.end] for index, layers in stages)
        times: list[float] = np.unique(self.stage_s[self.is_allowed & (self.stage_s <= slowest_s)]).tolist()
        return times


def arrays_of(problem: Problem) -> Arrays:
    """A problem with at least one machine and one layer."""
    machines, n_layer = problem.machines, len(problem.layer_bytes)
    begin_s = np.zeros((len(machines), n_layer + 1))
    begin_s[:, 1:] = np.cumsum([machine.layer_s for machine in machines], axis=1)
    end_s = begin_s + np.array([[machine.step_s] for machine in machines])
    end_s[:, n_layer] += [machine.output_s for machine in machines]
    hop_s, entry_s, exit_s = (np.array(times, np.float64) for times in (problem.hop_s, problem.entry_s, problem.exit_s))
    longest_s = end_s[:, n_layer].sum() + sum(
        times.max(axis=0, initial=0.0, where=np.isfinite(times)).sum() for times in (hop_s, entry_s, exit_s)
    )
    return Arrays(
        begin_s=begin_s,
        end_s=end_s,
        stage_s=end_s[:, None, :] - begin_s[:, :, None],
        is_allowed=_allowed(problem),
        hop_s=hop_s,
        entry_s=entry_s,
        exit_s=exit_s,
        span_s=1.0 + 2.0 * float(longest_s),
    )


def _allowed(problem: Problem) -> Bools:
    """`Arrays.is_allowed`."""
    machines, n_layer = problem.machines, len(problem.layer_bytes)
    sums = np.array([0, *accumulate(problem.layer_bytes)])
    begin_bytes = np.tile(sums, (len(machines), 1))
    end_bytes = begin_bytes.copy()
    begin_bytes[:, 0] -= [machine.input_bytes for machine in machines]
    end_bytes[:, n_layer] += [machine.output_bytes for machine in machines]
    capacity_bytes = np.array([machine.capacity_bytes for machine in machines])
    starts, ends = np.ogrid[: n_layer + 1, : n_layer + 1]
    allowed: Bools = end_bytes[:, None, :] - begin_bytes[:, :, None] <= capacity_bytes[:, None, None]
    allowed &= starts < ends
    for index, machine in enumerate(machines):
        if machine.pinned is not None:
            first, end = machine.pinned.start, machine.pinned.end
            own = allowed[index] & (starts == first) & (ends == end)
            allowed &= ((ends <= first) | (starts >= end)) & (end <= n_layer)
            allowed[index] = own
    return allowed
