# SPDX-License-Identifier: MIT
"""Experts in system memory: only where GPU memory does not suffice, of as few layers as will do, within what every
machine has; and what is said where that is not enough either.
"""

from dataclasses import replace
from itertools import combinations, pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.candidates import MARGIN_BYTES, Candidate, beside_experts, candidates_of
from coordinator.errors import DoesNotFitError
from coordinator.fitting import DryRunReport, adjust, misfits
from coordinator.plan import Demand, Plan
from coordinator.planner import make_plan, needs_hosted_experts
from coordinator.prediction import Links
from coordinator.speed import Curve, Speed
from coordinator.wishes import Distribution, Wishes
from coordinator.workers import LoadedStage, StageMemory
from native import LayerBytes, LayerCosts, LayerRange
from tests.coordinator.fleet import GIB, MIB, links_of, worker

ON = Wishes(distribution=Distribution.ON)


def _demand(n_layer: int = 8, *, dense: int = 20, experts: int = 80, kv: int = 10, n_dense: int = 0) -> Demand:
    """Layers of `dense` MiB and as many of experts, the first `n_dense` without."""
    moe = LayerBytes((dense + experts) * MIB, kv * MIB, experts * MIB)
    layers = (LayerBytes(dense * MIB, kv * MIB),) * n_dense + (moe,) * (n_layer - n_dense)
    return Demand("model", LayerCosts(layers, 0, 0, False), n_ctx=4096, n_sequences=4)


def _gpu(
    name: str, free: int, ram: int = 0, *, host: str = "", layer_ms: float = 1.0, hosted_ms: float = 3.0
) -> Candidate:
    return Candidate(
        name,
        f"{name}:1",
        "CUDA0",
        free * MIB,
        holds_input=False,
        speed=_speed(layer_ms, hosted_ms),
        host=host or name,
        host_free_bytes=ram * MIB,
    )


def _cpu(name: str, free: int, ram: int = 0, *, host: str = "", layer_ms: float = 20.0) -> Candidate:
    gpu = _gpu(name, free, ram, host=host, layer_ms=layer_ms, hosted_ms=layer_ms)
    return replace(gpu, device="CPU", holds_input=True)


def _speed(layer_ms: float, hosted_ms: float, n_layer: int = 8) -> Speed:
    return Speed(
        (0,) * n_layer, (Curve(((1, layer_ms / 1000),)),), Curve(((1, 0.0),)), (Curve(((1, hosted_ms / 1000),)),)
    )


def _hosted(plan: Plan) -> dict[str, tuple[int, int]]:
    """By worker: its layers, and of how many of them the experts lie in system memory."""
    return {stage.worker: (len(stage.layers), stage.n_cpu_moe) for stage in plan.stages}


def test_a_device_that_is_too_small_keeps_as_many_experts_as_fit() -> None:
    plan = make_plan(_demand(), [_gpu("a", 600, 1000)])
    # 880 MiB are needed and 600 are there: four layers' experts go.
    assert _hosted(plan) == {"a": (8, 4)}
    memory = plan.stages[0].memory
    assert (memory.device_bytes, memory.host_bytes) == (560 * MIB, 320 * MIB)
    assert plan.headline == "device memory does not suffice: experts of 4 layers in RAM"
    assert "0-7 + embedding + output, experts of 4 layers in RAM" in plan.explain()
    assert plan.prediction is not None
    assert plan.prediction.stage_s[0] == pytest.approx(4 * 0.003 + 4 * 0.001 + 0.0005)


def test_layers_without_experts_are_not_counted() -> None:
    plan = make_plan(_demand(n_dense=2), [_gpu("a", 600, 1000)])
    assert _hosted(plan) == {"a": (8, 2)}


def test_where_device_memory_suffices_none_go_however_slow_the_network_is() -> None:
    both = [_gpu("a", 600, 1000), _gpu("b", 600, 1000)]
    plan = make_plan(_demand(), both, links=links_of("ab", 50))
    assert [n for _, n in _hosted(plan).values()] == [0, 0]
    (with_ram,) = [each for each in plan.alternatives if each.label == "with experts in RAM"]
    assert with_ram.n_cpu_moe == (4,)
    assert "0-7 with experts of 4 layers in RAM" in with_ram.explain()


def test_a_cpu_worker_does_not_count_as_device_memory_and_takes_layers_where_that_is_quicker() -> None:
    gpu = _gpu("gpu", 600, 1000, hosted_ms=3)
    plan = make_plan(_demand(), [gpu, _cpu("cpu", 4000)], links=links_of(("gpu", "cpu"), 1))
    assert _hosted(plan) == {"gpu": (8, 4)}
    quick = _cpu("cpu", 4000, layer_ms=1.5)
    plan = make_plan(_demand(), [replace(gpu, speed=_speed(1, 50)), quick], links=links_of(("gpu", "cpu"), 1))
    assert _hosted(plan) == {"cpu": (8, 0)} or _hosted(plan)["gpu"][1] == 0


def test_without_room_for_experts_whole_layers_go_to_the_cpu() -> None:
    plan = make_plan(_demand(), [_gpu("gpu", 600), _cpu("cpu", 4000)], links=links_of(("gpu", "cpu"), 1))
    assert {name: n for name, (_, n) in _hosted(plan).items()} == {"gpu": 0, "cpu": 0}


def test_the_alternative_to_experts_in_system_memory_is_told() -> None:
    plan = make_plan(_demand(), [_gpu("gpu", 600, 1000), _cpu("cpu", 4000)], links=links_of(("gpu", "cpu"), 1))
    assert "without experts in RAM" in [each.label for each in plan.alternatives]


def test_where_it_is_not_known_how_fast_that_is_nothing_is_predicted() -> None:
    gpu = _gpu("gpu", 600, 1000)
    assert gpu.speed is not None
    plan = make_plan(_demand(), [replace(gpu, speed=replace(gpu.speed, hosted=None))])
    assert _hosted(plan) == {"gpu": (8, 4)}
    assert plan.prediction is None


def test_it_is_known_whether_speed_with_experts_in_system_memory_matters() -> None:
    demand, links = _demand(), Links({})
    assert needs_hosted_experts(demand, [_gpu("a", 600, 1000)], Wishes(), links)
    assert not needs_hosted_experts(demand, [_gpu("a", 900, 1000)], Wishes(), links)
    assert not needs_hosted_experts(demand, [_gpu("a", 600)], Wishes(), links)
    assert not needs_hosted_experts(_demand(n_dense=8), [_gpu("a", 100, 1000)], Wishes(), links)
    by_hand = Wishes(layer_ranges=(LayerRange(0, 2), LayerRange(2, 8)))
    assert needs_hosted_experts(demand, [_gpu("a", 600, 1000), _gpu("b", 600, 1000)], by_hand, links)


def test_ranges_by_hand_put_experts_where_they_have_to() -> None:
    by_hand = Wishes(layer_ranges=(LayerRange(0, 2), LayerRange(2, 8)))
    plan = make_plan(_demand(), [_gpu("a", 600, 1000), _gpu("b", 600, 1000)], wishes=by_hand)
    assert _hosted(plan) == {"a": (2, 0), "b": (6, 1)}
    with pytest.raises(DoesNotFitError, match=r"b can give 600 MiB of 600 MiB free and 50.0 MiB of RAM for experts"):
        make_plan(_demand(), [_gpu("a", 600), _gpu("b", 600, 50)], wishes=by_hand)


# ---- against every possible plan ----


@st.composite
def _cases(draw: st.DrawFn) -> tuple[Demand, list[Candidate]]:
    n_layer = draw(st.integers(1, 4))
    layers = []
    for _ in range(n_layer):
        dense, experts, kv = draw(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 3)))
        layers.append(LayerBytes((dense + experts) * MIB, kv * MIB, experts * MIB))
    costs = LayerCosts(tuple(layers), draw(st.integers(0, 4)) * MIB, draw(st.integers(0, 4)) * MIB, False)
    candidates = []
    for number in range(draw(st.integers(1, 3))):
        make = draw(st.sampled_from([_gpu, _cpu]))
        free, ram = draw(st.integers(0, 30)), draw(st.integers(0, 20))
        candidate = make(f"w{number}", free, ram, host=draw(st.sampled_from(["desk", "attic"])))
        candidates.append(replace(candidate, speed=_speed(number + 1, 3 * number + 3, n_layer)))
    return Demand("model", costs, n_ctx=256, n_sequences=1), candidates


def _has_line(demand: Demand, candidates: list[Candidate], *, hosted: bool) -> bool:
    """By going through every line."""
    n_layer = demand.n_layer
    for n_stages in range(1, min(n_layer, len(candidates)) + 1):
        for cuts in combinations(range(1, n_layer), n_stages - 1):
            ranges = [LayerRange(start, end) for start, end in pairwise((0, *cuts, n_layer))]
            for order in permutations(candidates, n_stages):
                if all(_fits(demand, each, layers, hosted) for each, layers in zip(order, ranges, strict=True)):
                    return True
    return False


def _fits(demand: Demand, candidate: Candidate, layers: LayerRange, hosted: bool) -> bool:
    with_experts = [layer for layer in demand.costs.layers[layers.start : layers.end] if layer.expert_bytes]
    for n_cpu_moe in range(len(with_experts) + 1 if hosted else 1):
        memory = demand.stage_memory(layers, holds_input=candidate.holds_input, n_cpu_moe=n_cpu_moe)
        beside_bytes = demand.costs.input_bytes if layers.start == 0 and not candidate.holds_input else 0
        has_room = n_cpu_moe == 0 or memory.host_bytes + beside_bytes <= candidate.host_free_bytes
        if memory.device_bytes <= candidate.free_bytes and has_room:
            return True
    return False


@given(_cases())
def test_there_is_a_plan_exactly_if_there_is_a_line_and_it_keeps_within_every_limit(
    case: tuple[Demand, list[Candidate]],
) -> None:
    demand, candidates = case
    gpus = [each for each in candidates if not each.is_cpu] or candidates
    reduced = beside_experts(candidates, demand.expert_bytes)
    is_possible = _has_line(demand, candidates, hosted=False) or _has_line(demand, reduced, hosted=True)
    try:
        plan = make_plan(demand, candidates)
    except DoesNotFitError:
        assert not is_possible
        return
    assert is_possible
    named = {each.name: each for each in candidates}
    if _has_line(demand, gpus, hosted=False):
        assert all(stage.n_cpu_moe == 0 for stage in plan.stages)
    for stage in plan.stages:
        candidate = named[stage.worker]
        assert stage.memory.device_bytes <= candidate.free_bytes
        assert stage.memory.host_bytes <= candidate.host_free_bytes
        if stage.n_cpu_moe:
            fewer = demand.stage_memory(stage.layers, holds_input=candidate.holds_input, n_cpu_moe=stage.n_cpu_moe - 1)
            assert fewer.device_bytes > min(candidate.free_bytes, reduced[candidates.index(candidate)].free_bytes)


# ---- what workers of one machine share ----


def _host_shares(*workers: object) -> list[int]:
    candidates, _ = candidates_of(workers, compute_bytes={})  # type: ignore[arg-type]
    return [candidate.host_free_bytes for candidate in candidates]


def test_workers_of_one_machine_share_its_memory_for_experts() -> None:
    cards = [worker(name, device=f"CUDA{n}", kind="gpu", ram=12 * GIB) for n, name in enumerate("ab")]
    assert _host_shares(*cards) == [6 * GIB, 6 * GIB]
    assert _host_shares(cards[0], replace(cards[1], host_name="attic")) == [12 * GIB, 12 * GIB]
    modest = worker("b", device="CUDA1", kind="gpu", ram=2 * GIB)
    assert _host_shares(cards[0], modest) == [10 * GIB, 2 * GIB]
    on_cpu = worker("c", free=64 * GIB)
    assert _host_shares(*cards, on_cpu) == [12 * GIB, 12 * GIB, 0]


def test_a_cpu_worker_has_of_its_memory_what_experts_leave() -> None:
    card = worker("card", device="CUDA0", kind="gpu", ram=12 * GIB)
    candidates, _ = candidates_of([card, worker("cpu", free=16 * GIB)], compute_bytes={})
    assert [each.free_bytes for each in beside_experts(candidates, 100 * GIB)] == [GIB, 4 * GIB]
    # No more than all experts, with the margin beside them.
    assert beside_experts(candidates, 3 * GIB)[1].free_bytes == 13 * GIB - MARGIN_BYTES
    # What nobody uses goes first.
    limited = replace(worker("cpu", free=16 * GIB), device=replace(worker("cpu", free=16 * GIB).device, free_bytes=GIB))
    candidates, _ = candidates_of([card, limited], compute_bytes={})
    assert beside_experts(candidates, 100 * GIB)[1].free_bytes == GIB


def test_system_memory_that_a_new_load_frees_counts_as_free() -> None:
    stage = LoadedStage("old", 1, LayerRange(0, 4), StageMemory(300, 100, 50, host_bytes=10 * MIB), is_serving=False)
    assert _host_shares(replace(worker("a", device="CUDA0", kind="gpu", ram=GIB), loaded=(stage,))) == [GIB + 10 * MIB]
    assert _host_shares(replace(worker("a", device="CUDA0", kind="gpu"), loaded=(stage,))) == [0]


# ---- what dry runs say ----


def test_a_dry_run_that_finds_too_little_system_memory_moves_experts_away() -> None:
    candidates = [_gpu("a", 600, 450), _gpu("b", 600, 450)]
    demand = _demand(16)
    plan = make_plan(demand, [replace(each, speed=_speed(1, 3, 16)) for each in candidates])
    assert {stage.n_cpu_moe for stage in plan.stages} == {4}
    reports = {stage.worker: DryRunReport(stage.memory, 900 * MIB) for stage in plan.stages}
    reports["a"] = DryRunReport(replace(reports["a"].memory, compute_bytes=100 * MIB, host_bytes=420 * MIB), 900 * MIB)
    (misfit,) = misfits(plan, candidates, reports)
    assert "with experts of 4 layers in RAM take 420 MiB on a" in misfit.message
    assert "it has 450 MiB of RAM to use" in misfit.message
    reserves = {each.name: each.host_reserve_bytes for each in adjust(plan, candidates, reports)}
    assert reserves == {"a": 100 * MIB + MARGIN_BYTES, "b": MARGIN_BYTES}


# ---- what helps ----


def test_more_system_memory_is_the_first_remedy_and_a_cpu_worker_the_second() -> None:
    with pytest.raises(DoesNotFitError) as refused:
        make_plan(_demand(), [_gpu("a", 400, 100, host="attic")])
    error = refused.value
    assert (error.needed_bytes, error.available_bytes) == (880 * MIB, 500 * MIB)
    assert "a 400 MiB of 400 MiB free and 100 MiB of RAM for experts" in error.message
    # Six layers' experts, 480 MiB, the margin and some; or the four layers that do not fit with one's experts away.
    assert error.message.endswith(
        ": give worker a --ram 576MiB for experts (now 100 MiB), start a CPU worker on attic with 440 MiB free "
        "(caravan worker --device CPU) or use a quantisation of at most 420 MiB"
    )
    make_plan(_demand(), [_gpu("a", 400, 576, host="attic")])


def test_of_machines_that_one_does_not_have_no_options_are_told() -> None:
    with pytest.raises(DoesNotFitError) as refused:
        make_plan(_demand(), [replace(_gpu("a", 400), address="")])
    assert "--ram" not in refused.value.message


def test_the_remedies_work() -> None:
    demand = _demand()
    with pytest.raises(DoesNotFitError, match="start a CPU worker on attic with 440 MiB free"):
        make_plan(demand, [_gpu("a", 450, host="attic")])
    make_plan(demand, [_gpu("a", 450, host="attic"), _cpu("c", 440)])


def test_a_card_too_small_for_all_the_rest_needs_help_from_the_others() -> None:
    with pytest.raises(
        DoesNotFitError, match=r"give workers a --ram \d+MiB for experts \(now 0 B\) and b --ram \d+MiB"
    ):
        make_plan(_demand(), [_gpu("a", 130), _gpu("b", 130)], wishes=ON)


def test_a_smaller_cache_comes_last_with_what_it_saves() -> None:
    demand = replace(_demand(kv=40), compact_kv_bytes=170 * MIB)
    with pytest.raises(DoesNotFitError) as refused:
        make_plan(demand, [_gpu("a", 1050, host="attic")])
    assert refused.value.message.endswith(
        " or lower the context to about 3072 tokens (or keep the KV cache as q8_0, which saves 150 MiB: --kv-type q8_0 "
        "--flash-attention on)"
    )
