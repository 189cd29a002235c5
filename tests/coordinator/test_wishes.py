# SPDX-License-Identifier: MIT
"""What users ask of a plan by name: the main device, and how many layers lie on GPUs."""

from dataclasses import replace
from itertools import combinations, pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import FlashAttention, MeshOptions
from coordinator.candidates import Candidate, candidates_of
from coordinator.cli.options import KV_TYPES
from coordinator.errors import DoesNotFitError, PlanError
from coordinator.plan import Demand, Plan
from coordinator.planner import make_plan
from coordinator.speed import Curve, Speed
from coordinator.wishes import Distribution, Wishes
from native import LayerBytes, LayerCosts, LayerRange
from tests.coordinator.fleet import MIB, links_of, worker

N_LAYER = 8


def _demand() -> Demand:
    layers = (LayerBytes(90 * MIB, 10 * MIB),) * N_LAYER
    return Demand("model", LayerCosts(layers, 0, 0, False), n_ctx=4096, n_sequences=1)


def _candidate(name: str, free: int = 4000, layer_ms: float = 1.0) -> Candidate:
    """A CPU if its name begins with a c."""
    speed = Speed((0,) * N_LAYER, (Curve(((1, layer_ms / 1000),)),), Curve(((1, 0.0),)))
    return Candidate(name, f"{name}:1", "", free * MIB, holds_input=name.startswith("c"), speed=speed, host=name)


def _ranges(plan: Plan) -> list[tuple[str, int, int]]:
    return [(stage.worker, stage.layers.start, stage.layers.end) for stage in plan.stages]


def test_the_main_device_has_the_output_layer_however_slow_it_is() -> None:
    workers = [_candidate("quick"), _candidate("slow", layer_ms=50)]
    plan = make_plan(_demand(), workers, wishes=Wishes(main="slow"), links=links_of(("quick", "slow"), 1))
    assert _ranges(plan) == [("quick", 0, 7), ("slow", 7, 8)]
    assert plan.headline == ""


def test_the_main_device_is_the_one_that_is_used_if_only_one_is() -> None:
    wishes = Wishes(distribution=Distribution.OFF, main="slow")
    plan = make_plan(_demand(), [_candidate("quick"), _candidate("slow", layer_ms=50)], wishes=wishes)
    assert _ranges(plan) == [("slow", 0, 8)]


def test_of_workers_on_one_device_the_main_one_takes_part() -> None:
    candidates, (note,) = candidates_of([worker("a"), worker("b", free=1)], compute_bytes={}, shared=False, main="b")
    assert [candidate.name for candidate in candidates] == ["b"]
    assert note.startswith("left out: a: ")


def test_layers_on_gpus_are_the_last_ones() -> None:
    workers = [_candidate("gpu"), _candidate("cpu", layer_ms=5), _candidate("titan")]
    links = links_of(("gpu", "cpu", "titan"), 1)
    assert _ranges(make_plan(_demand(), workers, wishes=Wishes(gpu_layers=5), links=links)) == [
        ("cpu", 0, 3),
        ("gpu", 3, 8),
    ]
    none = make_plan(_demand(), workers, wishes=Wishes(gpu_layers=0), links=links)
    assert _ranges(none) == [("cpu", 0, 8)]
    assert dict(none.left_out) == dict.fromkeys(("gpu", "titan"), "no layer is to lie on GPUs (--gpu-layers 0)")
    for more_than_all in (8, 99):
        plan = make_plan(_demand(), workers, wishes=Wishes(gpu_layers=more_than_all), links=links)
        assert _ranges(plan) == [("gpu", 0, 8)]
        assert dict(plan.left_out)["cpu"] == f"no layer is to lie on CPUs (--gpu-layers {more_than_all})"


@pytest.mark.parametrize(
    ("names", "wishes", "said"),
    [
        (("gpu",), Wishes(gpu_layers=5), "3 of the 8 layers of model are to lie on CPUs .* no CPU worker takes part"),
        (("cpu",), Wishes(gpu_layers=9), "8 of the 8 layers of model are to lie on GPUs .* no GPU worker takes part"),
        (("gpu",), Wishes(main="card"), "card is to be the main device, and does not take part; there are: gpu"),
        (
            ("gpu", "cpu"),
            Wishes(gpu_layers=0, pinned={"gpu": LayerRange(0, 1)}),
            "gpu is to take part, and with 0 of 8 layers on GPUs it gets none",
        ),
        (
            ("gpu", "cpu"),
            Wishes(main="gpu", layer_ranges=(LayerRange(0, 4), LayerRange(4, 8))),
            "gpu is to be the main device, and the last of the layer ranges is cpu's",
        ),
    ],
)
def test_what_cannot_be_had_of_these_workers_is_refused(names: tuple[str, ...], wishes: Wishes, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        make_plan(_demand(), [_candidate(name) for name in names], wishes=wishes)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[list[Candidate], Wishes]:
    names = draw(st.lists(st.sampled_from(["c1", "c2", "g1", "g2"]), min_size=1, max_size=4, unique=True))
    candidates = [_candidate(name, draw(st.integers(0, 9)) * 100, draw(st.integers(1, 5))) for name in names]
    main = draw(st.one_of(st.none(), st.sampled_from(names)))
    gpu_layers = draw(st.one_of(st.none(), st.integers(0, N_LAYER + 1)))
    distribution = draw(st.sampled_from([Distribution.AUTO, Distribution.OFF]))
    return candidates, Wishes(distribution, main=main, gpu_layers=gpu_layers)


def _latencies(candidates: list[Candidate], wishes: Wishes) -> list[float]:
    """Of every line that keeps to the wishes and within memory, by going through all; without links."""
    found = []
    for n_stages in range(1, 2 if wishes.distribution is Distribution.OFF else len(candidates) + 1):
        for cuts in combinations(range(1, N_LAYER), n_stages - 1):
            ranges = list(pairwise((0, *cuts, N_LAYER)))
            for order in permutations(candidates, n_stages):
                if wishes.main not in (None, order[-1].name):
                    continue
                stages = list(zip(order, ranges, strict=True))
                if all(_may_hold(each, start, end, wishes) for each, (start, end) in stages):
                    found.append(sum(_stage_s(each, end - start) for each, (start, end) in stages))
    return found


def _may_hold(candidate: Candidate, start: int, end: int, wishes: Wishes) -> bool:
    if (end - start) * 100 * MIB > candidate.free_bytes:
        return False
    if wishes.gpu_layers is None:
        return True
    on_gpu = [layer >= N_LAYER - wishes.gpu_layers for layer in range(start, end)]
    return not any(on_gpu) if candidate.is_cpu else all(on_gpu)


def _stage_s(candidate: Candidate, n_layer: int) -> float:
    assert candidate.speed is not None
    return n_layer * candidate.speed.layer_s(0, 1) + 0.0005


@given(_cases())
def test_no_line_that_keeps_to_the_wishes_is_better(case: tuple[list[Candidate], Wishes]) -> None:
    candidates, wishes = case
    latencies = _latencies(candidates, wishes)
    try:
        plan = make_plan(_demand(), candidates, wishes=wishes)
    except (DoesNotFitError, PlanError):
        assert not latencies
        return
    assert plan.prediction is not None
    assert plan.prediction.token_s == pytest.approx(min(latencies))


def test_a_wish_that_leaves_no_room_is_named_as_the_first_remedy() -> None:
    workers = [_candidate("gpu", 900), _candidate("cpu", 200)]
    with pytest.raises(DoesNotFitError, match=r"let the planner choose \(leave out --main\), "):
        make_plan(_demand(), workers, wishes=Wishes(Distribution.OFF, main="cpu"))
    with pytest.raises(DoesNotFitError, match=r"let the planner choose \(leave out --gpu-layers\), "):
        make_plan(_demand(), workers, wishes=Wishes(gpu_layers=5))


# ---- options ----


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (MeshOptions("demo", main="a", replicas=2), "a can be the main device of one line only"),
        (MeshOptions("demo", gpu_layers=-1), "-1 layers cannot lie on GPUs"),
        (MeshOptions("demo", gpu_layers=1, layer_ranges=[LayerRange(0, 8)]), "leave out gpu_layers"),
    ],
)
def test_wishes_that_contradict_each_other_are_refused(options: MeshOptions, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        _ = options.wishes


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_every_type_of_kv_cache_can_be_had_with_flash_attention(kv_type: str) -> None:
    options = MeshOptions("demo", kv_type_k=kv_type, kv_type_v=kv_type, flash_attention=FlashAttention.ON)
    assert options.context_params(512).kv_type_v == kv_type
    assert replace(options, flash_attention=FlashAttention.AUTO).context_params(512).kv_type_v == kv_type
    if kv_type[0] != "f" and kv_type != "bf16":
        without = replace(options, flash_attention=FlashAttention.OFF)
        with pytest.raises(
            PlanError, match=f"values of type {kv_type} only in flash attention: .*--flash-attention on"
        ):
            without.context_params(512)
        assert replace(without, kv_type_v="f16").context_params(512).kv_type_k == kv_type
