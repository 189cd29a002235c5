# SPDX-License-Identifier: MIT
"""From measured runs to the time of any stage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.speed import RUN_BYTES, Curve, Speed, layer_kinds, runs_to_measure, speed_of
from coordinator.workers import BenchmarkedRun
from native import LayerRange, read_layout
from tests.models import write_model

MIB = 1 << 20


def _ranges(runs: list[LayerRange]) -> list[tuple[int, int]]:
    return [(run.start, run.end) for run in runs]


def test_a_curve_is_straight_between_its_points_and_beyond() -> None:
    curve = Curve(((1, 1.0), (4, 1.3), (64, 7.3)))
    assert [curve.at(n) for n in (1, 2, 4, 34, 64, 128)] == pytest.approx([1.0, 1.1, 1.3, 4.3, 7.3, 13.7])


def test_a_curve_of_one_point_is_flat() -> None:
    assert Curve(((4, 2.0),)).at(1) == Curve(((4, 2.0),)).at(512) == 2.0


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=6), st.integers(1, 1000))
def test_a_curve_is_never_negative(seconds: list[float], n_tokens: int) -> None:
    assert Curve(tuple((4**i, s) for i, s in enumerate(seconds))).at(n_tokens) >= 0


def test_equal_layers_are_measured_in_one_run_and_the_last_alone() -> None:
    assert _ranges(runs_to_measure([0] * 8, [MIB] * 8)) == [(0, 7), (7, 8)]


def test_a_run_is_no_longer_than_it_takes_to_leave_the_cache_behind() -> None:
    assert _ranges(runs_to_measure([0] * 40, [RUN_BYTES // 4] * 40)) == [(0, 4), (39, 40)]


def test_each_kind_of_layer_is_measured() -> None:
    assert _ranges(runs_to_measure([0, 1, 1, 0, 1], [MIB] * 5)) == [(0, 1), (1, 3), (4, 5)]


def test_a_model_of_one_layer_is_one_run() -> None:
    assert _ranges(runs_to_measure([0], [MIB])) == [(0, 1)]
    speed = speed_of((0,), [MIB], [BenchmarkedRun(LayerRange(0, 1), ((1, 0.5),))])
    assert speed.stage_s(LayerRange(0, 1), 1) == 0.5


def test_a_stage_takes_its_layers_and_the_last_one_the_output_too() -> None:
    runs = [
        BenchmarkedRun(LayerRange(0, 4), ((1, 0.4), (8, 0.8))),
        BenchmarkedRun(LayerRange(7, 8), ((1, 0.35), (8, 0.9))),
    ]
    speed = speed_of((0,) * 8, [MIB] * 8, runs)
    assert speed.stage_s(LayerRange(0, 4), 1) == pytest.approx(0.4)
    assert speed.stage_s(LayerRange(4, 8), 1) == pytest.approx(0.4 + 0.25)
    assert speed.stage_s(LayerRange(4, 8), 8) == pytest.approx(0.8 + 0.7)


def test_a_last_layer_of_its_own_kind_counts_by_its_weights() -> None:
    runs = [BenchmarkedRun(LayerRange(0, 2), ((1, 0.2),)), BenchmarkedRun(LayerRange(2, 3), ((1, 0.5),))]
    speed = speed_of((0, 0, 1), [MIB, MIB, 3 * MIB], runs)
    assert speed.layer_s(2, 1) == pytest.approx(0.3)
    assert speed.stage_s(LayerRange(0, 3), 1) == pytest.approx(0.7)


def test_an_output_that_was_measured_quicker_than_nothing_takes_nothing() -> None:
    runs = [BenchmarkedRun(LayerRange(0, 1), ((1, 0.2),)), BenchmarkedRun(LayerRange(1, 2), ((1, 0.1),))]
    assert isinstance(speed := speed_of((0, 0), [MIB, MIB], runs), Speed)
    assert speed.output.at(1) == 0.0


def test_layers_with_the_same_tensors_are_of_one_kind(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("kinds")
    assert layer_kinds(read_layout(write_model(folder / "same.gguf", "llama", n_layer=4))) == (0, 0, 0, 0)
