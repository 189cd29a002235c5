# SPDX-License-Identifier: MIT
"""How prompts are cut, and how their chunks take turns with decode frames."""

import itertools

import pytest

from coordinator.pace import Pace
from coordinator.prefill import ChunkTimes, Crowd, best_chunk, best_turns
from tests.coordinator.simulated_crowd import SimulatedCrowd


def _passes_s(chunks_s: list[float], n_stages: int) -> float:
    """Seconds in which chunks pass stages that each take as long for them."""
    free_s = [0.0] * n_stages
    for seconds in chunks_s:
        ready_s = 0.0
        for stage in range(n_stages):
            ready_s = free_s[stage] = max(ready_s, free_s[stage]) + seconds
    return free_s[-1]


def test_a_prompt_is_cut_so_that_no_stage_waits_long_for_its_first_chunk() -> None:
    def stages(n_tokens: int) -> list[float]:
        return [0.016 + 0.001 * n_tokens] * 2

    assert best_chunk(2048, 512, 2, stages) in (128, 256)
    assert best_chunk(2048, 512, 1, stages) == 512
    assert best_chunk(128, 512, 2, stages) == 512


def test_no_order_of_small_and_large_chunks_beats_their_sum_and_the_longest() -> None:
    """Why the first and the last chunk are not smaller than the others."""
    for n_stages in (2, 3):
        for order in itertools.permutations([1.0, 1.0, 2.0, 4.0, 4.0]):
            assert _passes_s(list(order), n_stages) == pytest.approx(12 + (n_stages - 1) * 4)


def test_what_a_chunk_takes_grows_with_its_place_in_the_text_and_is_learned_for_all_sizes() -> None:
    times = ChunkTimes(1, lambda n_tokens: [2.0 * n_tokens])
    for start in range(0, 2048, 128):
        times.observe(128, start + 64, [0.128 * (1 + (start + 64) / 1000)])
    assert times.stage_s(128, 0)[0] == pytest.approx(0.128, rel=0.1)
    assert times.stage_s(256, 1000)[0] == pytest.approx(0.512, rel=0.1)
    assert times.stage_s(64, 3000)[0] == pytest.approx(0.256, rel=0.1)


def test_the_size_of_chunks_does_not_change_because_the_last_ones_seen_were_late_in_a_text() -> None:
    pace = Pace(2)
    sizes = set()
    for _ in range(6):
        n_chunk = pace.n_chunk(2048, 512)
        sizes.add(n_chunk)
        for start in range(0, 2048, n_chunk):
            position = start + n_chunk / 2
            pace.observe(n_chunk, [(0.009 + n_chunk * (0.003 + 1.6e-6 * position))] * 2, 0.001, position)
    assert sizes == {128}


def test_beside_a_chunk_one_full_lane_keeps_two_stages_busy() -> None:
    """Two half lanes of 0.026 s would leave less of a round to the chunk than one of 0.036 s."""
    crowd = Crowd(8, lambda n_tokens: [0.016 + 0.0025 * n_tokens] * 2, trip_s=0.001)
    turns = best_turns(crowd, 0.09, 2, lambda seconds: (max(4, int(300 * (seconds - 0.01))), max(0.023, seconds)))
    assert (turns.n_lanes, turns.n_chunks) == (1, 1)
    assert turns.chunk_s == pytest.approx(0.09 - 0.036 - 0.001)


def test_a_prompt_beside_many_streams_comes_in_time_and_leaves_them_half_their_speed() -> None:
    crowd = SimulatedCrowd(n_streams=8)
    crowd.run_streams(128)
    before_s = crowd.median_gap_s()
    took_s = crowd.run_prompt(2048)
    gaps = sorted(crowd.gaps_s(took_s))
    assert gaps[len(gaps) // 2] <= 1.9 * before_s
    assert gaps[int(0.95 * len(gaps))] <= 2.1 * before_s
    # Chunks of 8 or 16 tokens between two lanes, as it was once, make 47 tokens a second.
    assert 2048 / took_s >= 50
