# SPDX-License-Identifier: MIT
"""The model in other quantisations: which ones are offered, and what is said of them before anybody has them."""

from dataclasses import replace

import pytest

from coordinator.candidates import Candidate
from coordinator.errors import DoesNotFitError
from coordinator.plan import Alternative, Demand, Plan
from coordinator.planner import make_plan
from coordinator.quantisations import other_sizes, with_weights
from coordinator.speed import Curve, Speed
from coordinator.wishes import Wishes
from native import LayerBytes, LayerCosts, LayerRange
from tests.coordinator.fleet import MIB, links_of


def _demand(bits: float, *, n_layer: int = 8) -> Demand:
    """100 MiB of each layer are for 8 bits per weight."""
    layers = (LayerBytes(int(100 * MIB * bits / 8), 10 * MIB, int(80 * MIB * bits / 8)),) * n_layer
    costs = LayerCosts(layers, 0, int(50 * MIB * bits / 8), False)
    return Demand("model", costs, n_ctx=4096, n_sequences=1, n_batch=64, bits_per_weight=bits)


def _candidate(name: str, free: int) -> Candidate:
    """A millisecond per layer and token, two more for a batch of 64."""
    speed = Speed((0,) * 8, (Curve(((1, 0.001), (64, 0.003))),), Curve(((1, 0.0),)))
    return Candidate(name, f"{name}:1", "CPU", free * MIB, speed=speed)


def _estimates(plan: Plan) -> dict[str, Alternative]:
    return {each.label: each for each in plan.alternatives if each.size_bytes is not None}


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (16.0, ["Q8_0"]),
        (8.5, ["Q6_K"]),
        (6.6, ["Q5_K_M", "Q8_0"]),
        (5.69, ["Q4_K_M", "Q6_K"]),
        (4.55, ["Q3_K_M", "Q5_K_M"]),
        (2.1, ["Q3_K_M"]),
        (0.0, []),
    ],
)
def test_the_next_sizes_below_and_above_are_offered(bits: float, names: list[str]) -> None:
    sizes = other_sizes(replace(_demand(8.0), bits_per_weight=bits))
    assert [name for name, _ in sizes] == names
    for name, factor in sizes:
        assert (factor < 1) == (name in names[:1] and bits > 4.0)


def test_weights_are_scaled_and_the_cache_is_not() -> None:
    half = with_weights(_demand(8.0), 0.5)
    assert (half.weights_bytes, half.kv_bytes, half.expert_bytes) == (425 * MIB, 80 * MIB, 320 * MIB)


def test_only_reading_the_weights_takes_less_time() -> None:
    speed = Speed((0,), (Curve(((1, 0.001), (64, 0.003))),), Curve(((1, 0.5),)), (Curve(((1, 0.01),)),))
    half = speed.stretched(0.5)
    assert half.layer_s(0, 1) == pytest.approx(0.0005)
    assert half.layer_s(0, 64) == pytest.approx(0.0025)
    assert half.layer_s(0, 1, is_hosted=True) == pytest.approx(0.005)
    assert half.output.at(1) == pytest.approx(0.25)


def test_a_smaller_size_is_told_to_need_fewer_devices_and_a_larger_one_more() -> None:
    workers = [_candidate("a", 700), _candidate("b", 700)]
    plan = make_plan(_demand(5.7), workers, links=links_of("ab", 1))
    assert len(plan.stages) == 1
    estimates = _estimates(plan)
    assert list(estimates) == ["as Q4_K_M, estimated", "as Q6_K, estimated"]
    smaller, larger = estimates.values()
    assert (len(smaller.stages), len(larger.stages)) == (1, 2)
    assert smaller.size_bytes is not None
    assert smaller.size_bytes == pytest.approx(850 * MIB * 4.89 / 8, rel=1e-6)
    assert plan.prediction is not None
    assert smaller.prediction.stage_s[0] == pytest.approx(8 * 0.001 * 4.89 / 5.7 + 0.0005)
    assert "or as Q4_K_M, estimated: 520 MiB (a 0-7): " in plan.explain()


def test_a_size_that_fits_nowhere_is_not_offered() -> None:
    plan = make_plan(_demand(5.7), [_candidate("a", 700)])
    assert list(_estimates(plan)) == ["as Q4_K_M, estimated"]


def test_what_is_refused_names_a_size_that_would_fit() -> None:
    with pytest.raises(DoesNotFitError, match=r"a quantisation of at most 520 MiB, such as Q4_K_M with about 520 MiB"):
        make_plan(_demand(8.0), [_candidate("a", 600)])


def test_ranges_that_were_given_by_hand_have_no_alternatives() -> None:
    plan = make_plan(_demand(5.7), [_candidate("a", 700)], wishes=Wishes(layer_ranges=(LayerRange(0, 8),)))
    assert plan.alternatives == ()
