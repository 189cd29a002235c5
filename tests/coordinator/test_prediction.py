# SPDX-License-Identifier: MIT
"""What a line is predicted to do, by sums that can be done by hand."""

import pytest

from coordinator.prediction import COORDINATOR, STAGE_OVERHEAD_S, Links, PredictedStage, predict
from coordinator.speed import Curve, Speed
from coordinator.workers import Link
from native import LayerRange

# Ten layers of a millisecond for one token and two for 64, an output layer of five.
SPEED = Speed((0,) * 10, (Curve(((1, 0.001), (64, 0.002))),), Curve(((1, 0.005), (64, 0.005))))
LINKS = Links(
    {(COORDINATOR, "a"): Link(0.002, 1e9), (COORDINATOR, "b"): Link(0.004, 1e9), ("a", "b"): Link(0.006, 1e6)}
)
OVER = STAGE_OVERHEAD_S
STAGES = [PredictedStage("a", LayerRange(0, 4), SPEED), PredictedStage("b", LayerRange(4, 10), SPEED)]


def test_a_token_of_one_stream_goes_through_all_stages_and_links() -> None:
    prediction = predict(STAGES, LINKS, n_embd=0, n_sequences=1, n_batch=64, n_ctx=64)
    assert prediction.stage_s == pytest.approx((0.004 + OVER, 0.011 + OVER))
    assert prediction.hops_s == pytest.approx(0.001 + 0.003 + 0.002)
    assert prediction.tokens_per_s == pytest.approx(1 / (0.021 + 2 * OVER))


def test_hidden_states_take_their_time_on_a_slow_link() -> None:
    prediction = predict(STAGES, LINKS, n_embd=1000, n_sequences=1, n_batch=64, n_ctx=64)
    assert prediction.hops_s == pytest.approx(0.006 + 0.004)


def test_many_streams_share_the_frames_that_keep_the_slowest_stage_busy() -> None:
    prediction = predict(STAGES, LINKS, n_embd=0, n_sequences=64, n_batch=64, n_ctx=64)
    slowest = 6 * SPEED.layers[0].at(32) + 0.005 + OVER
    assert prediction.parallel_tokens_per_s == pytest.approx(64 / (2 * slowest))


def test_streams_that_make_a_frame_no_longer_share_one() -> None:
    flat = Speed((0,) * 10, (Curve(((1, 0.001), (64, 0.001))),), Curve(((1, 0.005), (64, 0.005))))
    stages = [PredictedStage("a", LayerRange(0, 4), flat), PredictedStage("b", LayerRange(4, 10), flat)]
    prediction = predict(stages, LINKS, n_embd=0, n_sequences=64, n_batch=64, n_ctx=64)
    assert prediction.parallel_tokens_per_s == pytest.approx(64 / (10 * 0.001 + 0.005 + 0.006 + 2 * OVER))


def test_the_chunks_of_a_prompt_follow_each_other() -> None:
    prediction = predict(STAGES, LINKS, n_embd=0, n_sequences=1, n_batch=64, n_ctx=4096)
    first, slowest = 0.008 + 0.017 + 2 * OVER, 0.017 + OVER
    assert prediction.ttft_s == pytest.approx(first + 7 * slowest + 0.006)


def test_a_context_shorter_than_the_prompt_bounds_it() -> None:
    prediction = predict(STAGES, LINKS, n_embd=0, n_sequences=1, n_batch=512, n_ctx=64)
    assert prediction.ttft_s == pytest.approx(0.025 + 2 * OVER + 0.006)


def test_an_unmeasured_link_counts_as_the_dearest() -> None:
    assert LINKS.one_way_s("b", "a", 0) == LINKS.one_way_s("a", "b", 0) == 0.003
    assert LINKS.one_way_s("a", "elsewhere", 0) == 0.003
    assert Links({}).one_way_s("a", "b", 1 << 20) == 0.0
