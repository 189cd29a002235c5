# SPDX-License-Identifier: MIT
"""Good lines where there are too many to go through: orders of the machines, improved by small moves. For one order,
the sweep finds the best set and cuts. Deterministic: so many rounds, and chance from a fixed seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np

from coordinator.search.lines import Line, least_line
from coordinator.search.problem import Problem
from coordinator.search.sweep import Sweep, graph_of_orders

_ROUNDS_X_PLACES = 1536
"""Rounds, times the places of an order: 48 rounds for 32 machines."""

_PROBE_PART = 8
"""A probe has the rounds divided by this: there are about twenty of them."""

_POOL = 4
"""Orders kept from one round to the next."""

_CHILDREN = 20
"""New orders in a round."""

_Order = tuple[int, ...]


class SomeLines:
    """The lines along some orders of the machines: a few good ones, and those that moves make of the best.

    Only the first places of an order count, as many as a line may have stages. The orders of the lines it gave are
    remembered, so that what was found at one limit is not lost at the next.
    """

    def __init__(self, problem: Problem) -> None:
        self._n_places = problem.most_stages
        self._known = _seeds(problem)

    def least(self, sweep: Sweep, goal_s: float, *, is_probe: bool) -> Line | None:
        chance = random.Random(0)
        pool = self._costs(sweep, [*self._known, _roomiest(sweep, self._n_places)])
        seen = set(pool)
        n_rounds = _ROUNDS_X_PLACES // self._n_places
        for _ in range(n_rounds // _PROBE_PART if is_probe else n_rounds):
            parents = list(pool)
            moved = [_moved(parents[i % len(parents)], self._n_places, chance) for i in range(_CHILDREN)]
            children = [child for child in dict.fromkeys(moved) if child not in seen]
            if min(pool.values()) <= goal_s or not children:
                break
            seen.update(children)
            # The new ones first: of equals they are kept, and the pool drifts.
            costs = self._costs(sweep, children) | pool
            pool = {order: costs[order] for order in sorted(costs, key=costs.__getitem__)[:_POOL]}
        best = min(pool, key=pool.__getitem__)
        if not is_probe or pool[best] <= goal_s:
            self._known = list(dict.fromkeys([best, *self._known]))
        return least_line(sweep, graph_of_orders(np.array([best[: self._n_places]])))

    def _costs(self, sweep: Sweep, orders: Sequence[_Order]) -> dict[_Order, float]:
        """What the best line of each order costs."""
        graph = graph_of_orders(np.array(orders)[:, : self._n_places])
        return dict(zip(orders, sweep.costs_of(graph, sweep.run(graph)).tolist(), strict=True))


def _moved(order: _Order, n_places: int, chance: random.Random) -> _Order:
    """An order near this one: once or twice, two machines change places, one goes elsewhere or a stretch is turned
    round. One of the two places is among those that count."""
    moved = list(order)
    for _ in range(chance.choice((1, 1, 2))):
        a, b = chance.randrange(n_places), chance.randrange(len(order))
        low, high = min(a, b), max(a, b) + 1
        match chance.randrange(3):
            case 0:
                moved[a], moved[b] = moved[b], moved[a]
            case 1:
                moved.insert(b, moved.pop(a))
            case _:
                moved[low:high] = reversed(moved[low:high])
    return tuple(moved)


def _seeds(problem: Problem) -> list[_Order]:
    """The orders to begin with: the roomy first, the quick, the quick that can hold everything, and the near."""
    machines, n_bytes = problem.machines, sum(problem.layer_bytes)
    layers_s = [sum(machine.layer_s) for machine in machines]
    lacking = [machine.input_bytes + n_bytes + machine.output_bytes - machine.capacity_bytes for machine in machines]
    rankings = [
        sorted(range(len(machines)), key=lambda m: -machines[m].capacity_bytes),
        sorted(range(len(machines)), key=lambda m: layers_s[m]),
        sorted(range(len(machines)), key=lambda m: (lacking[m] > 0, layers_s[m])),
        _by_nearness(problem),
    ]
    return [_laid_out(problem, ranking) for ranking in rankings]


def _by_nearness(problem: Problem) -> list[int]:
    """From the machine that the coordinator reaches soonest on to the nearest one, and so on."""
    left = set(range(len(problem.machines)))
    distance_s, chain = problem.entry_s, list[int]()
    while left:
        chain.append(min(left, key=lambda machine: (distance_s[machine], machine)))
        left.remove(chain[-1])
        distance_s = problem.hop_s[chain[-1]]
    return chain


def _laid_out(problem: Problem, ranking: Sequence[int]) -> _Order:
    """The pinned machines in the order of their ranges, and between them as many of the others as a line may have, as
    they are ranked, each in the gap that then lacks most bytes. The rest come behind."""
    pins = sorted(
        (machine.pinned, index) for index, machine in enumerate(problem.machines) if machine.pinned is not None
    )
    free = [index for index in ranking if problem.machines[index].pinned is None]
    n_free = max(0, problem.most_stages - len(pins))
    edges = [0, *(edge for layers, _ in pins for edge in (layers.start, layers.end)), len(problem.layer_bytes)]
    gaps = [range(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    lacking = [float(sum(problem.layer_bytes[gap.start : gap.stop])) if gap else -math.inf for gap in gaps]
    dealt: list[list[int]] = [[] for _ in gaps]
    for index in free[:n_free]:
        widest = lacking.index(max(lacking))
        dealt[widest].append(index)
        lacking[widest] -= problem.machines[index].capacity_bytes
    order = dealt[0]
    for (_, index), members in zip(pins, dealt[1:], strict=True):
        order += [index, *members]
    return (*order, *free[n_free:])


def _roomiest(sweep: Sweep, n_places: int) -> _Order:
    """The order whose line has the most room if all layers are alike: of all pairs the best first and last machine,
    with the roomiest others between them."""
    firsts, rooms, lasts = sweep.rooms()
    n_machines, n_between = len(rooms), max(0, n_places - 2)
    everyone, ranked = np.arange(n_machines), (-rooms).argsort(kind="stable")
    # As [first, last, other], the others as they are ranked.
    is_other = (ranked != everyone[:, None, None]) & (ranked != everyone[:, None])
    is_between = is_other & (is_other.cumsum(axis=2) <= n_between)
    n_held = firsts[:, None] + lasts + (is_between * rooms[ranked]).sum(axis=2)
    is_pair = (firsts[:, None] > 0) & (lasts > 0) & (everyone[:, None] != everyone)
    if not is_pair.any():
        return tuple(ranked.tolist())
    first, last = divmod(int(np.where(is_pair, n_held, -1).argmax()), n_machines)
    others = [machine for machine in ranked.tolist() if machine not in (first, last)]
    return (first, *others[:n_between], last, *others[n_between:])
