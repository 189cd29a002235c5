# SPDX-License-Identifier: MIT
"""Which machines, in which order, with which layers: the least latency or the least bottleneck within everybody's
memory. Pure arithmetic without a clock: the same problem has the same solution. The planner is its caller.

`problem` (values) → `solving` (what is best) → `lines` or `orders` (what is gone through) → `sweep` (dynamic
programming over layers, a stage at a time by `extension`) on `arrays`; `equals` puts the first of equal machines first.
"""

from coordinator.search.problem import Machine, Objective, Problem, Solution
from coordinator.search.solving import EXACT_MACHINES, solve, solve_by_orders, solve_exactly

__all__ = [
    "EXACT_MACHINES",
    "Machine",
    "Objective",
    "Problem",
    "Solution",
    "solve",
    "solve_by_orders",
    "solve_exactly",
]
