# SPDX-License-Identifier: MIT
"""What a verification computes, and what it makes of two sets of logits."""

import math

import numpy as np
import pytest

from coordinator.verification.comparison import Logits, difference_of
from coordinator.verification.exercise import exercise_of
from coordinator.verification.line_check import LineOutputs


def _logits(*rows: tuple[float, ...]) -> Logits:
    return np.array(rows, np.float32)


def test_the_same_bits_differ_by_nothing_and_minus_zero_is_another_zero() -> None:
    right = _logits((0.0, 1.0, 2.0), (3.0, 1.0, 2.0))
    same = difference_of([right, right], [right.copy(), right.copy()])
    assert same.is_none
    assert (same.n_rows, same.n_same_top, same.max_logit, same.max_kl) == (4, 4, 0.0, 0.0)
    assert not difference_of([right], [_logits((-0.0, 1.0, 2.0), (3.0, 1.0, 2.0))]).is_none


def test_a_difference_is_told_by_its_size_its_top_token_and_its_divergence() -> None:
    found = difference_of([_logits((0.0, math.log(3)), (0.0, 5.0))], [_logits((math.log(3), 0.0), (0.0, 5.0))])
    assert (found.n_rows, found.n_same_bits, found.n_same_top) == (2, 1, 1)
    assert found.max_logit == pytest.approx(math.log(3))
    # 0.25 log(0.25 / 0.75) + 0.75 log(0.75 / 0.25)
    assert found.max_kl == pytest.approx(0.5 * math.log(3), rel=1e-6)
    assert found.mean_kl == pytest.approx(found.max_kl / 2)


def test_what_is_no_number_is_infinitely_wrong() -> None:
    found = difference_of([_logits((0.0, 1.0))], [_logits((math.nan, 1.0))])
    assert math.isinf(found.max_logit)
    assert math.isinf(found.mean_kl)


def test_a_sampled_token_that_is_not_the_likeliest_is_counted() -> None:
    logits = [_logits((0.0, 1.0), (1.0, 0.0)), _logits((0.0, 1.0))]
    assert LineOutputs(logits, [[1, 0], [1]]).n_missampled == 0
    assert LineOutputs(logits, [[1, 1], [0]]).n_missampled == 2


def test_an_exercise_has_every_token_once_in_batches_and_the_last_ones_alone() -> None:
    texts = [list(range(100, 150)), [7]]
    steps = exercise_of(texts, n_ctx=40, n_batch=16, n_vocab=1000, n_single=5)
    assert [len(step.tokens) for step in steps] == [16, 16, 3, 1, 1, 1, 1, 1, 1]
    assert [token for step in steps for token in step.tokens] == [*range(100, 140), 7]
    assert [step.begins_text for step in steps] == [True, *[False] * 7, True]
    assert all(step.rows[-1] == len(step.tokens) - 1 for step in steps)


def test_rows_of_a_large_vocabulary_fit_a_message() -> None:
    (step,) = exercise_of([list(range(500))], n_ctx=500, n_batch=512, n_vocab=1 << 18, n_single=0)
    assert 4 * len(step.rows) * (1 << 18) <= 8 << 20
    assert step.rows[-1] == 499
