# SPDX-License-Identifier: MIT
"""The search: as good as going through every line of a small problem, nearly as good by orders, and never beyond
anybody's memory.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, pairwise, permutations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coordinator.search import Machine, Objective, Problem, Solution, solve, solve_by_orders, solve_exactly
from native import LayerRange

Stages = tuple[tuple[int, LayerRange], ...]
Key = tuple[float, ...]

AIMS = [(Objective.LATENCY, False), (Objective.THROUGHPUT, False), (Objective.LATENCY, True)]
"""Objective and `use_all`."""


def _machine(capacity: int, layer_s: float = 1.0, *, n_layer: int = 8) -> Machine:
    return Machine(capacity, 0, 0, (layer_s,) * n_layer, output_s=0.0, step_s=0.0)


def _problem(*machines: Machine, hop_s: float = 0.0, max_stages: int | None = None) -> Problem:
    n = len(machines)
    n_layer = len(machines[0].layer_s) if machines else 8
    return Problem((1,) * n_layer, machines, ((hop_s,) * n,) * n, (0.0,) * n, (0.0,) * n, max_stages)


def _ranges(solution: Solution | None) -> list[tuple[int, int, int]]:
    assert solution is not None
    return [(index, layers.start, layers.end) for index, layers in solution.stages]


def _experts_from(problem: Problem, index: int, layers: LayerRange) -> int | None:
    """The first layer with its experts on the device, by trying one after the other; None: the range does not fit."""
    machine, n_layer = problem.machines[index], len(problem.layer_bytes)
    for first in range(layers.start, layers.end + 1 if problem.expert_bytes else layers.start + 1):
        hosted = sum(problem.expert_bytes[layers.start : first])
        on_host = hosted + (machine.host_input_bytes if layers.start == 0 else 0)
        on_device = sum(problem.layer_bytes[layers.start : layers.end]) - hosted
        on_device += machine.input_bytes if layers.start == 0 else 0
        on_device += machine.output_bytes if layers.end == n_layer else 0
        if on_device <= machine.capacity_bytes:
            return first if first == layers.start or on_host <= machine.host_bytes else None
    return None


def _fits(problem: Problem, stages: Stages) -> bool:
    """Whether a line keeps within memory, to every pin and to everybody's place."""
    given_to = dict(stages)
    for index, machine in enumerate(problem.machines):
        layers = given_to.get(index)
        if machine.pinned not in (None, layers) or (machine.is_main and index != stages[-1][0]):
            return False
        if layers is None:
            continue
        if _experts_from(problem, index, layers) is None:
            return False
        within = machine.within or layers
        if layers.start < within.start or layers.end > within.end:
            return False
    return True


def _times(problem: Problem, stages: Stages) -> tuple[float, float]:
    """Latency and bottleneck."""
    stage_s = []
    for index, layers in stages:
        machine = problem.machines[index]
        first = _experts_from(problem, index, layers)
        assert first is not None
        own_s = [*(machine.host_layer_s or machine.layer_s)[layers.start : first], *machine.layer_s[first : layers.end]]
        output_s = machine.output_s if layers.end == len(problem.layer_bytes) else 0.0
        stage_s.append(sum(own_s) + machine.step_s + output_s)
    hops_s = sum(problem.hop_s[a][b] for (a, _), (b, _) in pairwise(stages))
    ends_s = problem.entry_s[stages[0][0]] + problem.exit_s[stages[-1][0]]
    return sum(stage_s) + hops_s + ends_s, max(stage_s)


def _key(latency_s: float, bottleneck_s: float, n_stages: int, objective: Objective, use_all: bool) -> Key:
    if use_all:
        return -n_stages, bottleneck_s, latency_s
    return (latency_s, bottleneck_s) if objective is Objective.LATENCY else (bottleneck_s, latency_s)


def _key_of(solution: Solution | None, objective: Objective, use_all: bool) -> Key | None:
    if solution is None:
        return None
    return _key(solution.latency_s, solution.bottleneck_s, len(solution.stages), objective, use_all)


def _every_line(problem: Problem) -> Iterator[Stages]:
    n_layer, n_machines = len(problem.layer_bytes), len(problem.machines)
    for n_stages in range(1, min(n_machines, n_layer, problem.max_stages or n_machines) + 1):
        for cuts in combinations(range(1, n_layer), n_stages - 1):
            ranges = [LayerRange(start, end) for start, end in pairwise((0, *cuts, n_layer))]
            for order in permutations(range(n_machines), n_stages):
                yield tuple(zip(order, ranges, strict=True))


def _best_keys(problem: Problem) -> list[Key | None]:
    """By going through every line: the best one's key for each of the aims."""
    found = [(*_times(problem, line), len(line)) for line in _every_line(problem) if _fits(problem, line)]
    found = [line for line in found if math.isfinite(line[0])]
    return [min((_key(*line, *aim) for line in found), default=None) for aim in AIMS]


def _check(problem: Problem, solution: Solution | None) -> None:
    """That a solution is what it says and nobody's limits are passed."""
    if solution is None:
        return
    stages = solution.stages
    covered = [layer for _, layers in stages for layer in range(layers.start, layers.end)]
    assert covered == list(range(len(problem.layer_bytes)))
    assert len({index for index, _ in stages}) == len(stages) <= (problem.max_stages or len(stages))
    assert _fits(problem, stages)
    assert solution.experts_from == tuple(_experts_from(problem, index, layers) for index, layers in stages)
    assert (solution.latency_s, solution.bottleneck_s) == pytest.approx(_times(problem, stages), rel=1e-12)


_SIXTEENTHS = st.integers(0, 40).map(lambda n: n / 16)
"""Times that add up without rounding, and often to the same."""


@st.composite
def _problems(draw: st.DrawFn, times: st.SearchStrategy[float], *, with_experts: bool = False) -> Problem:
    """With pins, limits and a main machine now and then; with experts half of which have room in system memory."""
    n_layer, n_machines = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    ways = st.integers(0, 15).flatmap(lambda n: times if n else st.just(math.inf))
    ends = st.integers(-6 * n_layer, n_layer)
    pins = ends.flatmap(
        lambda end: st.builds(LayerRange, st.integers(0, end - 1), st.just(end)) if end > 0 else st.none()
    )
    limits = st.integers(-2 * n_layer, n_layer).flatmap(
        lambda end: st.builds(LayerRange, st.integers(0, end - 1), st.just(end)) if end > 0 else st.none()
    )
    layer_bytes = draw(st.tuples(*[st.integers(1, 9)] * n_layer))
    hosts: dict[str, st.SearchStrategy[object]] = {}
    if with_experts:
        hosts["host_bytes"] = st.integers(0, 20)
        hosts["host_input_bytes"] = st.integers(0, 4)
        hosts["host_layer_s"] = st.one_of(st.none(), st.tuples(*[times] * n_layer))
    machines = st.builds(
        Machine,
        capacity_bytes=st.integers(0, 25 if with_experts else 50),
        input_bytes=st.integers(0, 6),
        output_bytes=st.integers(0, 6),
        layer_s=st.tuples(*[times] * n_layer),
        output_s=times,
        step_s=times,
        pinned=pins,
        within=limits,
        **hosts,
    )
    chosen = list(draw(st.tuples(*[machines] * n_machines)))
    main = draw(st.integers(-2 * n_machines, n_machines - 1))
    if main >= 0:
        chosen[main] = replace(chosen[main], is_main=True)
    experts = st.tuples(*(st.integers(0, n_bytes) for n_bytes in layer_bytes))
    return Problem(
        layer_bytes=layer_bytes,
        machines=tuple(chosen),
        hop_s=draw(st.tuples(*[st.tuples(*[ways] * n_machines)] * n_machines)),
        entry_s=draw(st.tuples(*[ways] * n_machines)),
        exit_s=draw(st.tuples(*[ways] * n_machines)),
        max_stages=draw(st.one_of(st.none(), st.integers(1, n_machines))),
        expert_bytes=draw(experts) if with_experts else (),
    )


@given(st.booleans().flatmap(lambda experts: _problems(_SIXTEENTHS, with_experts=experts)))
def test_no_line_of_a_small_problem_is_better_not_even_where_much_ties(problem: Problem) -> None:
    for aim, best in zip(AIMS, _best_keys(problem), strict=True):
        solution = solve(problem, aim[0], use_all=aim[1])
        _check(problem, solution)
        assert _key_of(solution, *aim) == best


@given(st.booleans().flatmap(lambda experts: _problems(st.floats(1e-3, 1.0), with_experts=experts)))
def test_times_of_any_kind_are_as_good_to_rounding(problem: Problem) -> None:
    for aim, best in zip(AIMS, _best_keys(problem), strict=True):
        solution = solve(problem, aim[0], use_all=aim[1])
        _check(problem, solution)
        key = _key_of(solution, *aim)
        assert (key is None) == (best is None)
        if key and best:
            n_exact = 2 if aim[1] else 1
            assert key[:n_exact] == pytest.approx(best[:n_exact], rel=1e-12)


def _random_problem(chance: random.Random, n_machines: int, n_layer: int, max_stages: int | None) -> Problem:
    """A home lab: unequal machines in two rooms, memory for somewhat more than the model."""
    layer_bytes = tuple(chance.randint(90, 110) for _ in range(n_layer))
    capacities = [chance.choice((1, 2, 4)) for _ in range(n_machines)]
    scale = chance.uniform(1.1, 2.0) * sum(layer_bytes) / sum(capacities) * n_machines / (max_stages or n_machines)
    machines = []
    for capacity in capacities:
        layer_s = chance.uniform(1e-3, 8e-3)
        machines.append(Machine(int(capacity * scale), 60, 120, (layer_s,) * n_layer, 2 * layer_s, 2e-4))
    rooms = [chance.randrange(2) for _ in range(n_machines)]
    hop_s = tuple(tuple(5e-3 if a != b else chance.uniform(2e-4, 4e-4) for b in rooms) for a in rooms)
    ends_s = tuple(chance.uniform(2e-4, 2e-3) for _ in rooms)
    return Problem(layer_bytes, tuple(machines), hop_s, ends_s, ends_s, max_stages)


@pytest.mark.parametrize("max_stages", [None, 3])
@pytest.mark.parametrize(("objective", "use_all"), AIMS)
def test_orders_lead_nearly_to_the_best_line(objective: Objective, use_all: bool, max_stages: int | None) -> None:
    chance = random.Random(1)
    n_found = 0
    for _ in range(6):
        problem = _random_problem(chance, n_machines=6, n_layer=12, max_stages=max_stages)
        best = solve_exactly(problem, objective, use_all=use_all)
        found = solve_by_orders(problem, objective, use_all=use_all)
        _check(problem, found)
        assert (found is None) == (best is None)
        if found and best:
            n_found += 1
            assert len(found.stages) == len(best.stages) or not use_all
            if objective is Objective.THROUGHPUT or use_all:
                assert found.bottleneck_s <= 1.02 * best.bottleneck_s
                assert found.latency_s <= 1.05 * best.latency_s
            else:
                assert found.latency_s <= 1.02 * best.latency_s
    assert n_found >= 4


def _with_experts(problem: Problem) -> Problem:
    """The same with half of the memory, and with room for experts, four fifths of the bytes, in system memory."""
    machines = tuple(
        replace(
            machine,
            capacity_bytes=machine.capacity_bytes // 2,
            host_bytes=machine.capacity_bytes,
            host_layer_s=tuple(3 * time_s for time_s in machine.layer_s),
        )
        for machine in problem.machines
    )
    expert_bytes = tuple(4 * n_bytes // 5 for n_bytes in problem.layer_bytes)
    return replace(problem, machines=machines, expert_bytes=expert_bytes)


def _in_two_parts(problem: Problem) -> Problem:
    """The same with somewhat more memory, where half of the machines may have the first half of the layers only, the
    others the rest; one of those is the main one."""
    n_layer = len(problem.layer_bytes)
    parts = (LayerRange(0, n_layer // 2), LayerRange(n_layer // 2, n_layer))
    machines = [
        replace(machine, capacity_bytes=3 * machine.capacity_bytes // 2, within=parts[index % 2])
        for index, machine in enumerate(problem.machines)
    ]
    return replace(problem, machines=(*machines[:-1], replace(machines[-1], is_main=True)))


@pytest.mark.parametrize("changed", [_with_experts, _in_two_parts])
@pytest.mark.parametrize("objective", Objective)
def test_orders_lead_nearly_to_the_best_line_with_experts_in_system_memory_and_in_parts(
    objective: Objective, changed: Callable[[Problem], Problem]
) -> None:
    chance = random.Random(7)
    n_found = 0
    for _ in range(6):
        problem = changed(_random_problem(chance, n_machines=6, n_layer=12, max_stages=None))
        best, found = solve_exactly(problem, objective), solve_by_orders(problem, objective)
        _check(problem, found)
        assert (found is None) == (best is None)
        if found and best:
            n_found += 1
            if objective is Objective.THROUGHPUT:
                assert found.bottleneck_s <= 1.02 * best.bottleneck_s
            else:
                assert found.latency_s <= 1.05 * best.latency_s
    assert n_found >= 4


@given(
    n_layer=st.integers(1, 12),
    machines=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=6),
    max_stages=st.integers(1, 6),
)
@example(n_layer=10, machines=[(31, 0, 20), (30, 0, 0)], max_stages=1)
def test_orders_find_room_for_equal_layers_wherever_it_is_without_luck(
    n_layer: int, machines: list[tuple[int, int, int]], max_stages: int
) -> None:
    no_time = (0.0,) * len(machines)
    problem = Problem(
        layer_bytes=(3,) * n_layer,
        machines=tuple(Machine(*each, layer_s=(0.0,) * n_layer, output_s=0.0, step_s=0.0) for each in machines),
        hop_s=(no_time,) * len(machines),
        entry_s=no_time,
        exit_s=no_time,
        max_stages=max_stages,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coordinator.search.orders._ROUNDS_X_PLACES", 0)
        found = solve_by_orders(problem, Objective.THROUGHPUT)
    _check(problem, found)
    assert (found is None) == (solve_exactly(problem, Objective.THROUGHPUT) is None)


def test_an_order_found_once_is_not_lost_at_a_lower_limit() -> None:
    # Few orders have room for these layers, and none of those that the search begins with.
    chance = random.Random(5)
    layer_bytes = tuple(chance.choice((1, 2, 5, 7)) for _ in range(20))
    capacities = [chance.randint(3, 12) for _ in range(9)]
    scale = 1.1 * sum(layer_bytes) / sum(capacities)
    machines = tuple(
        Machine(int(capacity * scale) + 1, 2, 3, (chance.choice((1.0, 2.0, 3.0)),) * 20, 0.0, 0.0)
        for capacity in capacities
    )
    problem = replace(_problem(*machines), layer_bytes=layer_bytes)
    for objective, use_all in AIMS:
        found = solve_by_orders(problem, objective, use_all=use_all)
        assert found is not None
        _check(problem, found)


def test_many_machines_are_laid_out_within_their_limits_and_always_alike() -> None:
    problem = _random_problem(random.Random(5), n_machines=20, n_layer=64, max_stages=None)
    for objective, use_all in AIMS:
        solution = solve(problem, objective, use_all=use_all)
        assert solution is not None
        _check(problem, solution)
        assert solve(problem, objective, use_all=use_all) == solution
        assert not use_all or len(solution.stages) == 20


def test_many_machines_keep_to_their_pins() -> None:
    machines = [_machine(3, 1.0 + index, n_layer=24) for index in range(12)]
    machines[7] = replace(machines[7], pinned=LayerRange(12, 14))
    machines[2] = replace(machines[2], pinned=LayerRange(20, 21))
    for objective, use_all in AIMS:
        solution = solve(_problem(*machines), objective, use_all=use_all)
        assert solution is not None
        _check(_problem(*machines), solution)


def test_many_machines_put_as_few_experts_as_will_do_into_system_memory() -> None:
    problem = _with_experts(_random_problem(random.Random(3), n_machines=16, n_layer=64, max_stages=None))
    assert solve(replace(problem, expert_bytes=()), Objective.LATENCY) is None
    solution = solve(problem, Objective.LATENCY)
    assert solution is not None
    _check(problem, solution)
    assert any(start > layers.start for start, (_, layers) in zip(solution.experts_from, solution.stages, strict=True))


def test_the_main_machine_comes_last_however_slow_it_is() -> None:
    problem = _problem(_machine(8), replace(_machine(8, 9.0), is_main=True), hop_s=0.5)
    assert _ranges(solve(problem, Objective.LATENCY)) == [(0, 0, 7), (1, 7, 8)]
    assert _ranges(solve(replace(problem, max_stages=1), Objective.LATENCY)) == [(1, 0, 8)]


def test_one_machine_that_holds_everything_saves_the_hops() -> None:
    problem = _problem(_machine(8), _machine(8), hop_s=0.5)
    assert _ranges(solve(problem, Objective.LATENCY)) == [(0, 0, 8)]
    throughput = solve(problem, Objective.THROUGHPUT)
    assert throughput is not None
    assert (throughput.bottleneck_s, throughput.latency_s) == (4.0, 8.5)


def test_of_equal_latencies_the_one_with_the_least_bottleneck_is_taken() -> None:
    # A third of a second per layer: what is equal differs by rounding.
    solution = solve(_problem(_machine(6, 1 / 3), _machine(7, 1 / 3), hop_s=0.01), Objective.LATENCY)
    assert solution is not None
    assert sorted(len(layers) for _, layers in solution.stages) == [4, 4]


def test_the_quicker_machine_gets_more_layers() -> None:
    problem = _problem(_machine(8, 1.0), _machine(8, 3.0))
    solution = solve(problem, Objective.THROUGHPUT)
    assert solution is not None
    assert {index: len(layers) for index, layers in solution.stages} == {0: 6, 1: 2}


def test_all_take_part_on_request_however_slow() -> None:
    problem = _problem(_machine(8), _machine(8, 50.0), _machine(0))
    for objective in Objective:
        solution = solve(problem, objective, use_all=True)
        assert solution is not None
        assert {index: len(layers) for index, layers in solution.stages} == {0: 7, 1: 1}


@pytest.mark.parametrize("solver", [solve_exactly, solve_by_orders])
def test_the_machine_with_room_for_the_output_comes_last(solver: Callable[[Problem, Objective], Solution]) -> None:
    tight = replace(_machine(4), output_bytes=1)
    problem = _problem(tight, _machine(4))
    assert _ranges(solver(problem, Objective.LATENCY)) == [(0, 0, 4), (1, 4, 8)]


def test_a_way_that_does_not_exist_is_not_gone() -> None:
    problem = replace(_problem(_machine(4), _machine(4)), hop_s=((0.0, math.inf), (9.0, 0.0)))
    assert _ranges(solve(problem, Objective.THROUGHPUT)) == [(1, 0, 4), (0, 4, 8)]
    assert solve(replace(problem, exit_s=(math.inf, 0.0)), Objective.THROUGHPUT) is None


def test_pins_that_overlap_or_leave_the_model_have_no_line() -> None:
    def pinned(first: LayerRange, second: LayerRange) -> Problem:
        return _problem(replace(_machine(8), pinned=first), replace(_machine(8), pinned=second), _machine(8))

    for first, second in [((0, 4), (3, 8)), ((0, 4), (0, 4)), ((0, 8), (8, 9)), ((0, 4), (4, 9))]:
        problem = pinned(LayerRange(*first), LayerRange(*second))
        assert solve_exactly(problem, Objective.LATENCY) is None
        assert solve_by_orders(problem, Objective.LATENCY) is None


def test_nobody_or_no_stage_is_no_line() -> None:
    assert solve(_problem(), Objective.LATENCY) is None
    assert solve(_problem(_machine(8), max_stages=0), Objective.LATENCY) is None


@pytest.mark.parametrize("time_s", [-1e-9, math.inf, math.nan])
def test_a_machine_with_an_impossible_time_is_refused(time_s: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        _machine(8, time_s)
