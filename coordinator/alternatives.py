# SPDX-License-Identifier: MIT
"""The other lines that people ask about, as far as they are others than the plan's: one device alone, all of them, for
the other objective, with experts in system memory on fewer devices, and the model in another quantisation. Pure; the
planner calls it.
"""

from __future__ import annotations

from collections.abc import Iterator

from coordinator.chooser import Chooser, line_of
from coordinator.plan import Alternative
from coordinator.quantisations import other_sizes
from coordinator.search import EXACT_MACHINES, Objective, Solution
from coordinator.wishes import Distribution


def alternatives(chooser: Chooser, chosen: Solution) -> tuple[Alternative, ...]:
    """Those with predictions; of equal ones the first."""
    seen = [_what(chosen)]
    found = []
    for label, solution in _ways(chooser, chosen):
        if solution is None or _what(solution) in seen:
            continue
        seen.append(_what(solution))
        alternative = alternative_of(label, chooser, solution)
        found += [] if alternative is None else [alternative]
    if len(chooser.candidates) <= EXACT_MACHINES:
        found += _quantised(chooser)
    return tuple(found)


def alternative_of(
    label: str, chooser: Chooser, solution: Solution, *, size_bytes: int | None = None
) -> Alternative | None:
    """What would be in the place of a plan; None where its speed is not known.

    Args:
        size_bytes: Of the model's weights, if they are others.
    """
    line = line_of(solution)
    predicted = chooser.predicted(line)
    if predicted is None:
        return None
    named = tuple((chooser.candidates[laid.index].name, laid.layers) for laid in line)
    n_cpu_moe = tuple(chooser.demand.n_cpu_moe(laid.layers, laid.experts_from) for laid in line)
    return Alternative(label, named, predicted, n_cpu_moe, size_bytes)


def _what(solution: Solution) -> tuple[object, ...]:
    return solution.stages, solution.experts_from


def _ways(chooser: Chooser, chosen: Solution) -> Iterator[tuple[str, Solution | None]]:
    everybody, wishes = chooser.everybody, chooser.wishes
    yield "one device alone", chooser.alone()
    if len(everybody) > EXACT_MACHINES:
        return  # the other searches would take longer than the plan itself
    if wishes.distribution is not Distribution.ON:
        yield "all devices", chooser.best(everybody, Objective.THROUGHPUT, use_all=True)
    if wishes.objective is Objective.LATENCY:
        yield "for many streams", chooser.best(everybody, Objective.THROUGHPUT)
    else:
        yield "for one stream", chooser.best(everybody, Objective.LATENCY)
    n_stages = len(chosen.stages)
    if chooser.must_host:
        yield "without experts in RAM", chooser.solved(everybody, wishes.objective)
    elif chooser.can_host and n_stages > 1:
        yield "with experts in RAM", chooser.solved(everybody, wishes.objective, hosted=True, max_stages=n_stages - 1)


def _quantised(chooser: Chooser) -> list[Alternative]:
    """The same wishes for the model in the nearest quantisations."""
    found = []
    for name, factor in other_sizes(chooser.demand):
        other = chooser.with_weights(factor)
        solution = other.best(other.everybody, other.wishes.objective, use_all=other.use_all)
        if solution is not None:
            label = f"as {name}, estimated"
            alternative = alternative_of(label, other, solution, size_bytes=other.demand.weights_bytes)
            found += [] if alternative is None else [alternative]
    return found
