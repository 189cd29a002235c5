# SPDX-License-Identifier: MIT
"""Which batches are timed how often within a limit, and what such a batch is."""

from collections.abc import Callable

import pytest

from worker.timing import Point, time_batches, trial_batch


class Steps:
    """Steps whose times are given; counts them."""

    def __init__(self, seconds: Callable[[int, int], float]) -> None:
        """`seconds`: of the step with so many tokens that is the so-manieth of its size, from 0."""
        self._seconds = seconds
        self.n_steps: dict[int, int] = {}
        self.spent_s = 0.0

    def __call__(self, n_tokens: int) -> float:
        n = self.n_steps.get(n_tokens, 0)
        self.n_steps[n_tokens] = n + 1
        step_s = self._seconds(n_tokens, n)
        self.spent_s += step_s
        return step_s


def test_a_point_is_the_median_of_a_few_steps_after_a_warm_up() -> None:
    times = {1: [9.0, 0.1, 0.5, 0.2, 0.3, 0.9], 64: [9.0, 2.0, 1.0, 5.0]}
    steps = Steps(lambda n_tokens, n: times[n_tokens][n])
    assert time_batches(steps, [1, 64], 1000.0) == (Point(1, 0.3), Point(64, 2.0))
    assert steps.n_steps == {1: 6, 64: 4}


def test_a_size_that_would_exceed_the_limit_is_left_out_with_all_larger_ones() -> None:
    steps = Steps(lambda n_tokens, _: 0.01 * n_tokens)
    assert [point.n_tokens for point in time_batches(steps, [1, 8, 64, 512], 3.0)] == [1, 8, 64]
    assert steps.spent_s <= 3.0


def test_where_time_is_short_a_size_gets_fewer_steps() -> None:
    steps = Steps(lambda n_tokens, _: 0.01 * n_tokens)
    time_batches(steps, [1, 64], 1.5)
    assert steps.n_steps == {1: 6, 64: 2}


def test_the_first_size_is_always_measured() -> None:
    steps = Steps(lambda *_: 7.0)
    assert time_batches(steps, [16, 32], 1.0) == (Point(16, 7.0),)
    assert steps.n_steps == {16: 2}


@pytest.mark.parametrize("n_tokens", [1, 4])
def test_a_small_batch_is_a_decode_of_as_many_sequences(n_tokens: int) -> None:
    batch = trial_batch(n_tokens, n_seq_max=4, n_vocab=100)
    assert batch.positions.tolist() == [0] * n_tokens
    assert batch.seq_ids.tolist() == batch.output_rows.tolist() == list(range(n_tokens))


def test_a_larger_batch_is_the_prefill_of_one_sequence_with_one_output() -> None:
    batch = trial_batch(5, n_seq_max=4, n_vocab=100)
    assert batch.positions.tolist() == list(range(5))
    assert batch.seq_ids.tolist() == [0] * 5
    assert batch.output_rows.tolist() == [4]


def test_the_tokens_of_a_batch_differ_and_are_the_same_each_time() -> None:
    tokens = trial_batch(64, n_seq_max=4, n_vocab=1000).tokens.tolist()
    assert len(set(tokens)) > 50
    assert all(0 <= token < 1000 for token in tokens)
    assert tokens == trial_batch(64, n_seq_max=4, n_vocab=1000).tokens.tolist()
