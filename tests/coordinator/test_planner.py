# SPDX-License-Identifier: MIT
"""The planner: ranges that cover the model within everybody's memory, as the sums of time say, or an error."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.candidates import MARGIN_BYTES, Candidate, candidates_of
from coordinator.errors import DoesNotFitError, NoWorkersError, PlanError
from coordinator.fitting import DryRunReport, adjust, misfits
from coordinator.plan import Demand, Plan
from coordinator.planner import make_plan
from coordinator.search import Objective
from coordinator.speed import Curve, Speed
from coordinator.wishes import Distribution, Wishes
from coordinator.workers import LoadedStage, StageMemory
from native import LayerBytes, LayerCosts, LayerRange
from tests.coordinator.fleet import GIB, MIB, links_of, worker

ON = Wishes(distribution=Distribution.ON)


def _by_hand(*ranges: LayerRange) -> Wishes:
    return Wishes(layer_ranges=ranges)


def _demand(n_layer: int = 8, weights: int = 90, kv: int = 10, ends: int = 50) -> Demand:
    layers = (LayerBytes(weights * MIB, kv * MIB),) * n_layer
    return Demand("model", LayerCosts(layers, ends * MIB, ends * MIB, False), n_ctx=4096, n_sequences=4)


def _candidate(name: str, free_mib: int, *, reserve_mib: int = 0, holds_input: bool = True) -> Candidate:
    return Candidate(name, f"{name}:1", "CPU", free_mib * MIB, reserve_mib * MIB, holds_input)


def _ranges(plan: Plan) -> list[tuple[str, int, int]]:
    return [(stage.worker, stage.layers.start, stage.layers.end) for stage in plan.stages]


def _speed(layer_ms: float, n_layer: int = 8, output_ms: float = 0.0) -> Speed:
    curve = Curve(((1, layer_ms / 1000), (512, layer_ms / 100)))
    return Speed((0,) * n_layer, (curve,), Curve(((1, output_ms / 1000),)))


def _fast(name: str, free_mib: int, layer_ms: float) -> Candidate:
    return replace(_candidate(name, free_mib), speed=_speed(layer_ms))


def test_one_worker_gets_everything() -> None:
    assert _ranges(make_plan(_demand(), [_candidate("a", 4000)])) == [("a", 0, 8)]


def test_equal_workers_get_equal_shares_if_all_are_to_take_part() -> None:
    plan = make_plan(_demand(ends=0), [_candidate("a", 4000), _candidate("b", 4000)], wishes=ON)
    assert _ranges(plan) == [("a", 0, 4), ("b", 4, 8)]


def test_one_device_that_holds_it_all_is_used_alone_and_the_plan_says_that_first() -> None:
    plan = make_plan(_demand(), [_fast("a", 4000, 1), _fast("b", 4000, 1)], links=links_of("ab", 1))
    assert _ranges(plan) == [("a", 0, 8)]
    assert plan.explain().startswith("not split: a can hold it all, and one stream is fastest there\n")
    assert plan.sentences == (
        "left out: b: the model fits without it, and with it one stream would make 100.0 tokens per second instead of "
        "105.3",
    )


def test_a_slow_device_is_left_out_when_the_model_fits_without_it() -> None:
    workers = [_fast("slow", 4000, 50), _fast("a", 600, 1), _fast("b", 600, 1)]
    plan = make_plan(_demand(), workers, links=links_of("ab", 1))
    assert sorted(stage.worker for stage in plan.stages) == ["a", "b"]
    assert plan.headline == "split over 2 devices, because that is faster than one alone"


def test_a_slow_device_helps_when_the_model_does_not_fit_without_it() -> None:
    workers = [_fast("slow", 4000, 50), _fast("a", 600, 1)]
    plan = make_plan(_demand(), workers, links=links_of("ab", 1), wishes=Wishes(distribution=Distribution.AUTO))
    shares = {stage.worker: len(stage.layers) for stage in plan.stages}
    assert shares == {"slow": 3, "a": 5}


def test_layers_go_by_speed_not_by_memory_if_all_are_to_take_part() -> None:
    workers = [_fast("big", 12000, 3), _fast("quick", 4000, 1)]
    plan = make_plan(_demand(), workers, wishes=ON)
    assert {stage.worker: len(stage.layers) for stage in plan.stages} == {"big": 2, "quick": 6}


def test_a_dear_hop_is_not_paid_for_a_little_speed() -> None:
    workers = [_fast("a", 4000, 2), _fast("b", 600, 1)]
    assert len(make_plan(_demand(), workers, links=links_of("ab", 1)).stages) == 2
    assert len(make_plan(_demand(), workers, links=links_of("ab", 20)).stages) == 1


def test_the_output_layer_counts() -> None:
    slow_output = replace(_candidate("a", 600), speed=_speed(1, output_ms=100))
    plan = make_plan(_demand(), [slow_output, _fast("b", 600, 1)], links=links_of("ab", 1))
    assert _ranges(plan)[-1][0] == "b"


def test_throughput_balances_what_latency_would_give_to_the_fastest() -> None:
    workers = [_fast("a", 4000, 1), _fast("b", 4000, 1)]
    plan = make_plan(_demand(ends=0), workers, links=links_of("ab", 1), wishes=Wishes(objective=Objective.THROUGHPUT))
    assert [len(stage.layers) for stage in plan.stages] == [4, 4]
    (alternative,) = plan.alternatives
    assert alternative.label == "one device alone"
    assert alternative.prediction.tokens_per_s > plan.prediction.tokens_per_s  # type: ignore[union-attr]


def test_distribution_off_takes_the_fastest_that_can_hold_it_all() -> None:
    workers = [_fast("small", 600, 1), _fast("a", 4000, 5), _fast("b", 4000, 3)]
    plan = make_plan(_demand(), workers, wishes=Wishes(distribution=Distribution.OFF))
    assert _ranges(plan) == [("b", 0, 8)]


def test_distribution_off_without_a_device_that_can_hold_it_all_is_refused() -> None:
    workers = [_fast("a", 600, 1), _fast("b", 600, 1)]
    with pytest.raises(DoesNotFitError, match="the largest worker can give 600 MiB, 300 MiB too little"):
        make_plan(_demand(), workers, wishes=Wishes(distribution=Distribution.OFF))


def test_the_number_of_stages_can_be_bounded() -> None:
    workers = [_fast(name, 600, 1) for name in "abc"]
    assert len(make_plan(_demand(), workers, wishes=replace(ON, max_stages=2)).stages) == 2


def test_pinned_layers_are_where_they_were_pinned() -> None:
    workers = [_fast(name, 4000, 1) for name in "abc"]
    plan = make_plan(_demand(), workers, wishes=Wishes(pinned={"b": LayerRange(6, 8)}))
    assert _ranges(plan)[-1] == ("b", 6, 8)


@pytest.mark.parametrize(
    ("pinned", "message"),
    [
        ({"nobody": LayerRange(0, 1)}, "layers are given to nobody, which does not take part; there are: a, b"),
        ({"a": LayerRange(0, 9)}, "layers 0 to 8 are given to a, and model has 8 layers"),
        ({"a": LayerRange(0, 5), "b": LayerRange(4, 8)}, "there is no plan for model with layers 0 to 4 on a"),
    ],
)
def test_pins_that_cannot_be_are_refused(pinned: dict[str, LayerRange], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make_plan(_demand(), [_candidate("a", 4000), _candidate("b", 4000)], wishes=Wishes(pinned=pinned))


def test_memory_kept_in_reserve_is_not_counted() -> None:
    workers = [_candidate("a", 8400, reserve_mib=8000), _candidate("b", 4000)]
    assert _ranges(make_plan(_demand(ends=0), workers, wishes=ON)) == [("a", 0, 4), ("b", 4, 8)]
    workers = [_candidate("a", 8400, reserve_mib=8100), _candidate("b", 4000)]
    assert {s.worker: len(s.layers) for s in make_plan(_demand(ends=0), workers, wishes=ON).stages} == {"a": 3, "b": 5}


def test_everybody_takes_part_even_with_little_memory_if_asked_to() -> None:
    plan = make_plan(_demand(), [_candidate("big", 100_000), _candidate("tiny", 160)], wishes=ON)
    assert _ranges(plan) == [("big", 0, 7), ("tiny", 7, 8)]


def test_a_worker_without_room_for_one_layer_is_left_out_and_the_plan_says_so() -> None:
    workers = [_candidate("a", 4000), _candidate("watch", 99), _candidate("b", 4000)]
    plan = make_plan(_demand(), workers, wishes=ON)
    assert [stage.worker for stage in plan.stages] == ["a", "b"]
    (note,) = plan.sentences
    assert "watch" in note
    assert "99.0 MiB" in note
    assert "one layer with its KV cache takes 100 MiB" in note
    assert note in plan.explain()


def test_with_more_workers_than_layers_some_stay_idle() -> None:
    plan = make_plan(_demand(n_layer=2), [_candidate(name, 4000) for name in "abc"], wishes=ON)
    assert len(plan.stages) == 2
    assert len(plan.sentences) == 1


def test_the_embedding_counts_only_where_it_lies_on_the_device() -> None:
    demand = _demand(n_layer=2, ends=50)
    with pytest.raises(DoesNotFitError):
        make_plan(demand, [_candidate("cpu", 240)])
    plan = make_plan(demand, [_candidate("gpu", 250, holds_input=False)])
    assert plan.stages[0].memory.weights_bytes == (2 * 90 + 50) * MIB


def test_a_model_that_does_not_fit_is_refused_with_numbers_and_what_helps() -> None:
    with pytest.raises(DoesNotFitError) as refused:
        make_plan(_demand(), [_candidate("a", 400), _candidate("b", 460)])
    error = refused.value
    assert (error.needed_bytes, error.available_bytes) == (900 * MIB, 860 * MIB)
    assert "model needs 900 MiB (820 MiB of weights, 80.0 MiB of KV cache for 4 x 4096 tokens)" in error.message
    assert "860 MiB" in error.message
    assert "a 400 MiB of 400 MiB free, b 460 MiB of 460 MiB free" in error.message
    assert "together the workers can give 860 MiB, 40.0 MiB too little" in error.message
    assert error.message.endswith(
        "lower the context to about 2048 tokens, serve 2 in parallel instead of 4 or use a quantisation of at most "
        "780 MiB"
    )


def test_enough_memory_in_pieces_too_small_is_refused_too() -> None:
    with pytest.raises(DoesNotFitError, match="cannot be cut so that each part fits"):
        make_plan(_demand(n_layer=2, ends=0), [_candidate("a", 190), _candidate("b", 90)])


def test_without_workers_there_is_no_plan() -> None:
    with pytest.raises(NoWorkersError, match="caravan worker"):
        make_plan(_demand(), [])


def test_manual_ranges_win() -> None:
    workers = [_candidate("a", 4000), _candidate("b", 4000), _candidate("c", 4000)]
    plan = make_plan(_demand(), workers, wishes=_by_hand(LayerRange(0, 1), LayerRange(1, 8)))
    assert _ranges(plan) == [("a", 0, 1), ("b", 1, 8)]


@pytest.mark.parametrize(
    "ranges",
    [
        [LayerRange(0, 7)],
        [LayerRange(1, 8)],
        [LayerRange(0, 3), LayerRange(4, 8)],
        [LayerRange(0, 5), LayerRange(4, 8)],
        [LayerRange(0, 9)],
        [],
    ],
)
def test_manual_ranges_must_cover_the_model(ranges: list[LayerRange]) -> None:
    with pytest.raises(PlanError, match="do not cover model: give ranges that follow each other"):
        make_plan(_demand(), [_candidate("a", 4000), _candidate("b", 4000)], wishes=_by_hand(*ranges))


def test_more_manual_ranges_than_workers_are_refused() -> None:
    with pytest.raises(PlanError, match="2 layer ranges were given for 1 worker"):
        make_plan(_demand(), [_candidate("a", 4000)], wishes=_by_hand(LayerRange(0, 4), LayerRange(4, 8)))


def test_a_manual_range_that_does_not_fit_names_itsworker() -> None:
    ranges = [LayerRange(0, 7), LayerRange(7, 8)]
    with pytest.raises(DoesNotFitError, match="layers 0 to 6 of model need 750 MiB and a can give 500 MiB"):
        make_plan(_demand(), [_candidate("a", 500), _candidate("b", 4000)], wishes=_by_hand(*ranges))


@given(
    layers=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), min_size=1, max_size=12),
    ends=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    free=st.lists(st.integers(0, 400), min_size=1, max_size=5),
)
def test_any_plan_covers_the_model_exactly_and_keeps_within_every_limit(
    layers: list[tuple[int, int]], ends: tuple[int, int], free: list[int]
) -> None:
    costs = LayerCosts(tuple(LayerBytes(w * MIB, kv * MIB) for w, kv in layers), ends[0] * MIB, ends[1] * MIB, False)
    demand = Demand("model", costs, n_ctx=256, n_sequences=1)
    candidates = [_candidate(f"w{i}", mib) for i, mib in enumerate(free)]
    needed_bytes = demand.weights_bytes + demand.kv_bytes
    try:
        plan = make_plan(demand, candidates)
    except DoesNotFitError:
        # One worker that can hold it all would have been a plan.
        assert all(candidate.capacity_bytes < needed_bytes for candidate in candidates)
        return
    covered = [layer for stage in plan.stages for layer in range(stage.layers.start, stage.layers.end)]
    assert covered == list(range(len(layers)))
    for stage in plan.stages:
        assert stage.memory.total_bytes <= stage.free_bytes
    assert sum(stage.memory.total_bytes for stage in plan.stages) == needed_bytes
    assert len(plan.stages) + len(plan.sentences) == len(candidates)


@given(n_layer=st.integers(1, 30), n_workers=st.integers(1, 6))
def test_with_room_enough_nobody_is_left_out_and_none_has_more_than_its_share(n_layer: int, n_workers: int) -> None:
    candidates = [_candidate(f"w{i}", 100_000) for i in range(n_workers)]
    plan = make_plan(_demand(n_layer=n_layer, ends=0), candidates, wishes=ON)
    counts = [len(stage.layers) for stage in plan.stages]
    assert len(counts) == min(n_layer, n_workers)
    assert max(counts) == -(-n_layer // len(counts))


def test_workers_on_one_device_share_its_memory() -> None:
    workers = [worker("a"), worker("b"), worker("c", host="attic"), worker("d", device="CUDA0", kind="gpu")]
    candidates, notes = candidates_of(workers, compute_bytes={})
    assert notes == []
    assert [candidate.free_bytes for candidate in candidates] == [GIB // 2, GIB // 2, GIB, GIB]
    assert [candidate.holds_input for candidate in candidates] == [True, True, True, False]


def test_a_worker_that_may_have_little_leaves_the_rest_to_those_it_shares_with() -> None:
    small = replace(worker("a"), device=replace(worker("a").device, free_bytes=GIB // 4))
    candidates, _ = candidates_of([small, worker("b"), worker("c")], compute_bytes={})
    assert [candidate.free_bytes for candidate in candidates] == [GIB // 4, 3 * GIB // 8, 3 * GIB // 8]
    assert [candidate.share_of(GIB // 2) for candidate in candidates[1:]] == [0, 0]


def test_limits_of_workers_on_a_large_device_do_not_make_it_smaller() -> None:
    limited = [replace(worker(n), device=replace(worker(n).device, free_bytes=GIB // 4)) for n in ("a", "b", "c")]
    candidates, _ = candidates_of(limited, compute_bytes={})
    assert [candidate.free_bytes for candidate in candidates] == [GIB // 4] * 3


def test_one_worker_can_have_all_of_a_device_for_itself() -> None:
    workers = [worker("a"), worker("b"), worker("c", host="attic")]
    candidates, (note,) = candidates_of(workers, compute_bytes={}, shared=False)
    assert [(candidate.name, candidate.free_bytes) for candidate in candidates] == [("a", GIB), ("c", GIB)]
    assert note.startswith("left out: b: it computes on the same CPU as a")


def test_of_workers_on_one_device_the_one_that_may_have_most_has_it_to_itself() -> None:
    small = replace(worker("a"), device=replace(worker("a").device, free_bytes=GIB // 4))
    candidates, (note,) = candidates_of([small, worker("b")], compute_bytes={}, shared=False)
    assert [(candidate.name, candidate.free_bytes) for candidate in candidates] == [("b", GIB)]
    assert note.startswith("left out: a: ")


def test_memory_that_a_new_load_frees_counts_as_free() -> None:
    stage = LoadedStage(
        "old", 1, LayerRange(0, 4), StageMemory(300 * MIB, 100 * MIB, 50 * MIB, host_bytes=10 * MIB), is_serving=False
    )
    holder = replace(worker("a", free=500 * MIB), loaded=(stage,))
    (candidate,), _ = candidates_of([holder], compute_bytes={})
    assert candidate.free_bytes == 940 * MIB


def test_who_has_no_room_for_the_logits_does_not_get_the_output_layer() -> None:
    demand = replace(_demand(ends=0), output_compute_bytes=300 * MIB)
    plan = make_plan(demand, [_candidate("a", 1000), _candidate("b", 350)], wishes=ON)
    assert [stage.worker for stage in plan.stages] == ["b", "a"]


def test_what_a_dry_run_taught_is_not_forgotten_by_a_smaller_one() -> None:
    candidates = [_candidate("a", 1000, reserve_mib=500), _candidate("b", 1000)]
    plan = make_plan(_demand(), candidates, wishes=ON)
    reports = {
        stage.worker: DryRunReport(replace(stage.memory, compute_bytes=100 * MIB), 1000 * MIB) for stage in plan.stages
    }
    reserves = [candidate.reserve_bytes for candidate in adjust(plan, candidates, reports)]
    assert reserves == [500 * MIB, 100 * MIB + MARGIN_BYTES]


def test_a_dry_run_that_finds_too_little_room_moves_layers_away() -> None:
    candidates = [_candidate("a", 1000), _candidate("b", 1000)]
    plan = make_plan(_demand(), candidates, wishes=ON)
    reports = {
        "a": DryRunReport(StageMemory(410 * MIB, 40 * MIB, 600 * MIB), 1000 * MIB),
        "b": DryRunReport(StageMemory(410 * MIB, 40 * MIB, 100 * MIB), 1000 * MIB),
    }
    (misfit,) = misfits(plan, candidates, reports)
    assert misfit.message.startswith("layers 0 to 3 of model take 1.0 GiB on a (410 MiB of weights, 40.0 MiB of KV")
    adjusted = adjust(plan, candidates, reports)
    assert [c.reserve_bytes for c in adjusted] == [600 * MIB + MARGIN_BYTES, 100 * MIB + MARGIN_BYTES]
    again = make_plan(_demand(), adjusted, wishes=ON)
    assert {stage.worker: len(stage.layers) for stage in again.stages} == {"a": 2, "b": 6}


def test_the_explanation_names_every_stage_with_its_numbers() -> None:
    notes = ["left out: old: worker old runs another build"]
    workers = [_fast("a", 4000, 1), _fast("attic", 4000, 1)]
    plan = make_plan(_demand(ends=0), workers, wishes=_by_hand(LayerRange(0, 4), LayerRange(4, 8)), notes=notes)
    plan = plan.with_memory({"a": StageMemory(360 * MIB, 40 * MIB, 7 * MIB)})
    assert plan.explain().splitlines() == [
        "model: 8 layers, 720 MiB of weights, 80.0 MiB of KV cache for 4 x 4096 tokens",
        "  worker  device  layers           weights  KV cache  compute  left free           per token",
        "  a       CPU     0-3 + embedding  360 MiB  40.0 MiB  7.0 MiB  3.5 GiB of 3.9 GiB  4.5 ms",
        "  attic   CPU     4-7 + output     360 MiB  40.0 MiB  0 B      3.5 GiB of 3.9 GiB  4.5 ms",
        "predicted: 111.1 tokens per second for one stream, 424.5 for 4 together; first token of a long prompt "
        "(512 tokens) after 67 ms",
        "left out: old: worker old runs another build",
    ]
