# SPDX-License-Identifier: MIT
"""The planner: ranges that cover the model, within everybody's memory and in proportion to it, or an error."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.errors import DoesNotFitError, NoWorkersError, PlanError
from coordinator.plan import Demand, Plan, size
from coordinator.planner import MARGIN_BYTES, Candidate, DryRunReport, adjust, candidates_of, make_plan, misfits
from coordinator.workers import BuildVersions, FoundWorker, LoadedStage, StageMemory, WorkerDevice
from native import LayerBytes, LayerCosts, LayerRange

MIB = 1 << 20
GIB = 1 << 30


def _demand(n_layer: int = 8, weights: int = 90, kv: int = 10, ends: int = 50) -> Demand:
    layers = (LayerBytes(weights * MIB, kv * MIB),) * n_layer
    return Demand("model", LayerCosts(layers, ends * MIB, ends * MIB, False), n_ctx=4096, n_sequences=4)


def _candidate(name: str, free_mib: int, *, reserve_mib: int = 0, holds_input: bool = True) -> Candidate:
    return Candidate(name, f"{name}:1", "CPU", free_mib * MIB, reserve_mib * MIB, holds_input)


def _ranges(plan: Plan) -> list[tuple[str, int, int]]:
    return [(stage.worker, stage.layers.start, stage.layers.end) for stage in plan.stages]


def _worker(name: str, *, host: str = "desk", device: str = "CPU", kind: str = "cpu", free: int = GIB) -> FoundWorker:
    return FoundWorker(
        name=name,
        instance_id=name,
        address=f"{name}:1",
        host_name=host,
        contract_version="1",
        versions=BuildVersions("", "", "", ""),
        device=WorkerDevice(device, "", "", kind, free, 2 * free),
    )


def test_one_worker_gets_everything() -> None:
    assert _ranges(make_plan(_demand(), [_candidate("a", 4000)])) == [("a", 0, 8)]


def test_equal_workers_get_equal_shares() -> None:
    plan = make_plan(_demand(), [_candidate("a", 4000), _candidate("b", 4000)])
    assert _ranges(plan) == [("a", 0, 4), ("b", 4, 8)]


def test_layers_go_in_proportion_to_free_memory() -> None:
    plan = make_plan(_demand(n_layer=40, ends=0), [_candidate("big", 12000), _candidate("small", 4000)])
    assert _ranges(plan) == [("big", 0, 30), ("small", 30, 40)]


def test_memory_kept_in_reserve_is_not_counted() -> None:
    workers = [_candidate("a", 12000, reserve_mib=8000), _candidate("b", 4000)]
    assert _ranges(make_plan(_demand(ends=0), workers)) == [("a", 0, 4), ("b", 4, 8)]


def test_everybody_takes_part_even_with_little_memory() -> None:
    plan = make_plan(_demand(), [_candidate("big", 100_000), _candidate("tiny", 160)])
    assert _ranges(plan) == [("big", 0, 7), ("tiny", 7, 8)]


def test_a_worker_without_room_for_one_layer_is_left_out_and_the_plan_says_so() -> None:
    plan = make_plan(_demand(), [_candidate("a", 4000), _candidate("watch", 99), _candidate("b", 4000)])
    assert [stage.worker for stage in plan.stages] == ["a", "b"]
    (note,) = plan.notes
    assert "watch" in note
    assert "99.0 MiB" in note
    assert "one layer takes 100 MiB" in note
    assert note in plan.explain()


def test_with_more_workers_than_layers_some_stay_idle() -> None:
    plan = make_plan(_demand(n_layer=2), [_candidate(name, 4000) for name in "abc"])
    assert len(plan.stages) == 2
    assert len(plan.notes) == 1


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
    assert "lower the context to about 2048" in error.message
    assert "serve fewer sequences in parallel" in error.message


def test_enough_memory_in_pieces_too_small_is_refused_too() -> None:
    with pytest.raises(DoesNotFitError, match="cannot be cut so that each part fits"):
        make_plan(_demand(n_layer=2, ends=0), [_candidate("a", 190), _candidate("b", 90)])


def test_without_workers_there_is_no_plan() -> None:
    with pytest.raises(NoWorkersError, match="caravan worker"):
        make_plan(_demand(), [])


def test_manual_ranges_win() -> None:
    workers = [_candidate("a", 4000), _candidate("b", 4000), _candidate("c", 4000)]
    plan = make_plan(_demand(), workers, layer_ranges=[LayerRange(0, 1), LayerRange(1, 8)])
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
    with pytest.raises(PlanError, match="do not cover model: give half-open ranges that follow each other from 0 to 8"):
        make_plan(_demand(), [_candidate("a", 4000), _candidate("b", 4000)], layer_ranges=ranges)


def test_more_manual_ranges_than_workers_are_refused() -> None:
    with pytest.raises(PlanError, match="2 layer ranges were given for 1 worker"):
        make_plan(_demand(), [_candidate("a", 4000)], layer_ranges=[LayerRange(0, 4), LayerRange(4, 8)])


def test_a_manual_range_that_does_not_fit_names_its_worker() -> None:
    ranges = [LayerRange(0, 7), LayerRange(7, 8)]
    with pytest.raises(DoesNotFitError, match="layers 0 to 6 of model need 750 MiB and a can give 500 MiB"):
        make_plan(_demand(), [_candidate("a", 500), _candidate("b", 4000)], layer_ranges=ranges)


@settings(deadline=None)
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
    order = [candidate.name for candidate in candidates]
    assert [stage.worker for stage in plan.stages] == sorted((s.worker for s in plan.stages), key=order.index)
    assert len(plan.stages) + len(plan.notes) == len(candidates)


@settings(deadline=None)
@given(n_layer=st.integers(1, 30), n_workers=st.integers(1, 6))
def test_with_room_enough_nobody_is_left_out_and_shares_are_even(n_layer: int, n_workers: int) -> None:
    candidates = [_candidate(f"w{i}", 100_000) for i in range(n_workers)]
    plan = make_plan(_demand(n_layer=n_layer, ends=0), candidates)
    counts = [len(stage.layers) for stage in plan.stages]
    assert len(counts) == min(n_layer, n_workers)
    assert max(counts) - min(counts) <= 1


def test_workers_on_one_device_share_its_memory() -> None:
    workers = [_worker("a"), _worker("b"), _worker("c", host="attic"), _worker("d", device="CUDA0", kind="gpu")]
    candidates = candidates_of(workers, compute_bytes=0)
    assert [candidate.free_bytes for candidate in candidates] == [GIB // 2, GIB // 2, GIB, GIB]
    assert [candidate.holds_input for candidate in candidates] == [True, True, True, False]


def test_memory_that_a_new_load_frees_counts_as_free() -> None:
    stage = LoadedStage(
        "old", 1, LayerRange(0, 4), StageMemory(300 * MIB, 100 * MIB, 50 * MIB, host_bytes=10 * MIB), is_serving=False
    )
    worker = _worker("a", free=500 * MIB)
    (candidate,) = candidates_of([replace(worker, loaded=(stage,))], compute_bytes=0)
    assert candidate.free_bytes == 940 * MIB


def test_a_dry_run_that_finds_too_little_room_moves_layers_away() -> None:
    candidates = [_candidate("a", 1000), _candidate("b", 1000)]
    plan = make_plan(_demand(), candidates)
    reports = {
        "a": DryRunReport(StageMemory(410 * MIB, 40 * MIB, 600 * MIB), 1000 * MIB),
        "b": DryRunReport(StageMemory(410 * MIB, 40 * MIB, 100 * MIB), 1000 * MIB),
    }
    (misfit,) = misfits(plan, candidates, reports)
    assert misfit.message.startswith("layers 0 to 3 of model take 1.0 GiB on a (410 MiB of weights, 40.0 MiB of KV")
    adjusted = adjust(plan, candidates, reports)
    assert [c.reserve_bytes for c in adjusted] == [600 * MIB + MARGIN_BYTES, 100 * MIB + MARGIN_BYTES]
    again = make_plan(_demand(), adjusted)
    assert len(again.stages[0].layers) < 4


def test_the_explanation_names_every_stage_with_its_numbers() -> None:
    notes = ["left out: old: worker old runs another build"]
    plan = make_plan(_demand(), [_candidate("a", 4000), _candidate("attic", 4000)], notes=notes)
    plan = plan.with_memory({"a": StageMemory(410 * MIB, 40 * MIB, 7 * MIB)})
    assert plan.explain().splitlines() == [
        "model: 8 layers, 820 MiB of weights, 80.0 MiB of KV cache for 4 x 4096 tokens",
        "  a      layers 0 to 3 + embedding: 410 MiB weights + 40.0 MiB KV + 7.0 MiB compute of 3.9 GiB free on CPU",
        "  attic  layers 4 to 7 + output: 410 MiB weights + 40.0 MiB KV of 3.9 GiB free on CPU",
        "left out: old: worker old runs another build",
    ]


@pytest.mark.parametrize(
    ("n_bytes", "shown"),
    [(0, "0 B"), (512, "512 B"), (1536, "1.5 KiB"), (300 * MIB, "300 MiB"), (5000 << 30, "4.9 TiB")],
)
def test_bytes_are_shown_for_people(n_bytes: int, shown: str) -> None:
    assert size(n_bytes) == shown
