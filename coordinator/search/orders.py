# SPDX-License-Identifier: MIT
"""Good lines where there are too many to go through: orders of the machines, improved by small moves. For one order,
the sweep finds the best set and cuts. Deterministic: so many rounds, and chance from a fixed seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from coordinator.search.lines import Line, least_line
from coordinator.search.problem import Machine, Problem
from coordinator.search.sweep import Sweep, graph_of_orders
from native import LayerRange

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
        limits = [machine.within for machine in problem.machines]
        self._firsts = [0 if layers is None else layers.start for layers in limits]

    def least(self, sweep: Sweep, goal_s: float, *, is_probe: bool) -> Line | None:
        chance = random.Random(0)
        pool = self._costs(sweep, [*self._known, self._in_their_parts(_roomiest(sweep, self._n_places))])
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

    def _in_their_parts(self, order: _Order) -> _Order:
        """The same machines in the places that count, those that may be in an early part of the model first."""
        counting = sorted(order[: self._n_places], key=self._firsts.__getitem__)
        return (*counting, *order[self._n_places :])

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
    rooms = _rooms(problem)
    lacking = [m.input_bytes + n_bytes + m.output_bytes - room for m, room in zip(machines, rooms, strict=True)]
    rankings = [
        sorted(range(len(machines)), key=lambda m: -rooms[m]),
        sorted(range(len(machines)), key=lambda m: layers_s[m]),
        sorted(range(len(machines)), key=lambda m: (lacking[m] > 0, layers_s[m])),
        _by_nearness(problem),
    ]
    return [_laid_out(problem, ranking) for ranking in rankings]


def _rooms(problem: Problem) -> list[int]:
    """What each machine can hold, with system memory for experts."""
    n_bytes = sum(problem.expert_bytes)
    return [machine.capacity_bytes + min(machine.host_bytes, n_bytes) for machine in problem.machines]


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
    they are ranked, each in the gap that then lacks most bytes of those where it may be; the main one at the end. The
    rest come behind."""
    machines, rooms = problem.machines, _rooms(problem)
    pins = sorted((machine.pinned, index) for index, machine in enumerate(machines) if machine.pinned is not None)
    unpinned = [index for index in ranking if machines[index].pinned is None]
    main = [index for index in unpinned if machines[index].is_main]
    free = [index for index in unpinned if index not in main]
    parts = [_parts(problem, gap) for gap in _gaps(problem, [layers for layers, _ in pins])]
    gaps = [part for some in parts for part in some]
    lacking = [float(sum(problem.layer_bytes[gap.start : gap.stop])) if gap else -math.inf for gap in gaps]
    lacking[-1] -= sum(rooms[index] for index in main)
    dealt: list[list[int]] = [[] for _ in gaps]
    for _ in range(problem.most_stages - len(pins) - len(main)):
        places = [
            (i, gap) for i, index in enumerate(free) for gap in range(len(gaps)) if _may(machines[index], gaps[gap])
        ]
        if not places:
            break
        i, gap = max(places, key=lambda place: (lacking[place[1]], -place[0], -place[1]))
        index = free.pop(i)
        dealt[gap].append(index)
        lacking[gap] -= rooms[index]
    order, members = list[int](), iter(dealt)
    for some, (_, pinned) in zip(parts, [*pins, (None, None)], strict=True):
        for _ in some:
            order += next(members)
        order += [] if pinned is None else [pinned]
    return (*order, *main, *free)


def _gaps(problem: Problem, pins: Sequence[LayerRange]) -> list[range]:
    """Before, between and behind these."""
    edges = [0, *(edge for layers in pins for edge in (layers.start, layers.end)), len(problem.layer_bytes)]
    return [range(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _parts(problem: Problem, gap: range) -> list[range]:
    """A gap in as many parts as machines may be in parts of it only."""
    limits = [machine.within for machine in problem.machines if machine.within is not None]
    cuts = {edge for layers in limits for edge in (layers.start, layers.end) if gap.start < edge < gap.stop}
    return [range(start, end) for start, end in pairwise([gap.start, *sorted(cuts), gap.stop])]


def _may(machine: Machine, gap: range) -> bool:
    """Whether it may hold layers there."""
    return machine.within is None or (machine.within.start <= gap.start and gap.stop <= machine.within.end)


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
