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
        stage_s: [machine, start, end]: the one less the other, and what it takes longer that experts of some of its
            layers lie in system memory.
        is_allowed: [machine, start, end]: the range fits the machine, and respects its place and everybody's pin. For
            a machine and an end, the allowed starts follow each other.
        is_separable: No stage takes longer than its end less its begin.
        span_s: More than twice the latency of any line.
    """

    begin_s: Floats
    end_s: Floats
    stage_s: Floats
    is_allowed: Bools
    is_separable: bool
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
    stage_s = end_s[:, None, :] - begin_s[:, :, None]
    over_bytes = _over_bytes(problem)
    hosted = _Hosted.of(problem, over_bytes)
    is_allowed = over_bytes <= 0
    if hosted is not None:
        stage_s += hosted.longer_s
        is_allowed |= hosted.fits
    hop_s, entry_s, exit_s = (np.array(times, np.float64) for times in (problem.hop_s, problem.entry_s, problem.exit_s))
    longest_s = end_s[:, n_layer].sum() + sum(
        times.max(axis=0, initial=0.0, where=np.isfinite(times)).sum() for times in (hop_s, entry_s, exit_s)
    )
    return Arrays(
        begin_s=begin_s,
        end_s=end_s,
        stage_s=stage_s,
        is_allowed=_within_limits(problem, is_allowed),
        is_separable=hosted is None,
        hop_s=hop_s,
        entry_s=entry_s,
        exit_s=exit_s,
        span_s=1.0 + 2.0 * float(longest_s + (0.0 if hosted is None else hosted.longest_s)),
    )


def _over_bytes(problem: Problem) -> Ints:
    """[machine, start, end]: what the range takes beyond what the machine's device has."""
    machines, n_layer = problem.machines, len(problem.layer_bytes)
    sums = np.array([0, *accumulate(problem.layer_bytes)])
    begin_bytes = np.tile(sums, (len(machines), 1))
    end_bytes = begin_bytes.copy()
    begin_bytes[:, 0] -= [machine.input_bytes for machine in machines]
    end_bytes[:, n_layer] += [machine.output_bytes for machine in machines]
    end_bytes -= np.array([[machine.capacity_bytes] for machine in machines])
    over_bytes: Ints = end_bytes[:, None, :] - begin_bytes[:, :, None]
    return over_bytes


@dataclass(frozen=True, slots=True, eq=False)
class _Hosted:
    """Ranges with experts of their first layers in system memory: `Problem.experts_from` for all of them.

    Attributes:
        fits: [machine, start, end]: like that, and not without.
        longer_s: [machine, start, end]: what it takes longer than with all on the device.
        longest_s: More than any line takes longer.
    """

    fits: Bools
    longer_s: Floats
    longest_s: float

    @classmethod
    def of(cls, problem: Problem, over_bytes: Ints) -> _Hosted | None:
        """None if no range needs it and fits."""
        machines = problem.machines
        if not any(problem.expert_bytes) or not any(machine.host_bytes for machine in machines):
            return None
        n_ends = over_bytes.shape[1]
        sums = np.array([0, *accumulate(problem.expert_bytes)])
        starts, ends = np.arange(n_ends)[:, None], np.arange(n_ends)
        experts_from = np.where(over_bytes > 0, np.searchsorted(sums, sums[:, None] + over_bytes), starts)
        held_bytes = sums[np.minimum(experts_from, n_ends - 1)] - sums[:, None]
        held_bytes[:, 0] += [[machine.host_input_bytes] for machine in machines]
        host_bytes = np.array([machine.host_bytes for machine in machines])[:, None, None]
        fits: Bools = (over_bytes > 0) & (experts_from <= ends) & (held_bytes <= host_bytes)
        if not fits.any():
            return None
        each_s = [np.subtract(machine.host_layer_s or machine.layer_s, machine.layer_s) for machine in machines]
        before_s = np.zeros((len(machines), n_ends))
        before_s[:, 1:] = np.cumsum(each_s, axis=1)
        experts_from = np.where(fits, experts_from, starts)
        numbers = np.arange(len(machines))[:, None, None]
        longer_s = before_s[numbers, experts_from] - before_s[:, :, None]
        return cls(fits, longer_s, float(np.abs(each_s).sum()))


def _within_limits(problem: Problem, allowed: Bools) -> Bools:
    """Of the ranges that fit, those that respect everybody's pin and place."""
    n_layer = len(problem.layer_bytes)
    starts, ends = np.ogrid[: n_layer + 1, : n_layer + 1]
    allowed = allowed & (starts < ends)
    is_whole_end = ends == n_layer
    has_main = any(machine.is_main for machine in problem.machines)
    for index, machine in enumerate(problem.machines):
        if machine.within is not None:
            allowed[index] &= (starts >= machine.within.start) & (ends <= machine.within.end)
        if has_main:
            allowed[index] &= is_whole_end == machine.is_main
        if machine.pinned is not None:
            first, end = machine.pinned.start, machine.pinned.end
            own = allowed[index] & (starts == first) & (ends == end)
            allowed &= ((ends <= first) | (starts >= end)) & (end <= n_layer)
            allowed[index] = own
    return allowed
