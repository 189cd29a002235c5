# SPDX-License-Identifier: MIT
"""How many lanes, from what frames take."""

import pytest

from coordinator.pace import Pace, best_lanes, cycle_s


def test_more_lanes_are_worth_it_only_where_they_bring_tokens_sooner() -> None:
    def flat(_n_tokens: int) -> list[float]:
        return [0.010, 0.010]

    def steep(n_tokens: int) -> list[float]:
        return [0.001 * n_tokens, 0.001 * n_tokens]

    assert best_lanes(8, 2, flat, trip_s=0.001) == 1
    assert best_lanes(8, 2, steep, trip_s=0.0) == 2
    assert best_lanes(1, 2, steep, trip_s=0.0) == 1
    # A third lane is computed while another one is on its way back.
    assert best_lanes(12, 2, steep, trip_s=0.004) == 3
    assert cycle_s(12, 3, steep, 0.004) == pytest.approx(0.012)


def test_what_frames_take_is_learned_size_by_size() -> None:
    pace = Pace(2)
    for _ in range(100):
        pace.observe(1, [0.010, 0.020], trip_s=0.002)
        pace.observe(16, [0.012, 0.024], trip_s=0.002)
    assert pace.stage_s(1) == pytest.approx([0.010, 0.020])
    assert pace.stage_s(16) == pytest.approx([0.012, 0.024])
    assert 0.010 < pace.stage_s(8)[0] < 0.0125
    assert pace.trip_s == pytest.approx(0.002)
    # It hardly grows: one frame for all.
    assert pace.n_lanes(16) == 1


def test_a_line_that_changes_its_pace_is_followed() -> None:
    pace = Pace(1, lambda n_tokens: [0.001 * n_tokens])
    pace.observe(1, [0.001], trip_s=0.0)
    for _ in range(50):
        pace.observe(1, [0.003], trip_s=0.0)
    assert pace.stage_s(1)[0] == pytest.approx(0.003, rel=0.01)


def test_chunks_of_a_prompt_say_nothing_of_decode_frames_of_as_many_tokens() -> None:
    """Those of the one look back on a long text, those of the others on short ones."""
    pace = Pace(1, lambda n_tokens: [0.001 * n_tokens])
    pace.observe(4, [0.004], trip_s=0.0)
    for _ in range(20):
        pace.observe(4, [0.020], trip_s=0.0, chunk_at=1500.0)
    assert pace.stage_s(4)[0] == pytest.approx(0.004)
    assert pace.chunk_s(4, 1500)[0] == pytest.approx(0.020)
