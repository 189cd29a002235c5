# SPDX-License-Identifier: MIT
"""What guessing ahead of the verdicts is worth, over stages whose times are simulated: those of a CPU, for which one
token more in a frame costs half of the first, over links with 5 ms."""

from dataclasses import replace

import pytest

from coordinator.sequence import Limits
from tests.coordinator.simulated_line import SimulatedLine, Times

_N_TOKENS = 300
_LIMITS = Limits(n_slots=1, n_batch=512, n_ctx=4096, n_stages=3, n_waiting=1, n_drafts=16, has_draft_model=True)


def _speed(limits: Limits, times: Times, right: float) -> float:
    return SimulatedLine(limits, times, right).tokens_per_s(_N_TOKENS)


@pytest.mark.parametrize("right", [0.8, 0.9])
@pytest.mark.parametrize("guess_s", [0.001, 0.004])
def test_over_three_stages_it_is_worth_half_as_much_again_as_waiting_for_verdicts(right: float, guess_s: float) -> None:
    times = Times(guess_s=guess_s)
    ahead = _speed(_LIMITS, times, right)
    assert ahead >= 1.5 * _speed(replace(_LIMITS, runs_ahead=False), times, right)
    assert ahead >= 2 * _speed(replace(_LIMITS, n_drafts=0, has_draft_model=False), times, right)


@pytest.mark.parametrize("right", [0.6, 0.8])
@pytest.mark.parametrize("times", [Times(), Times(link_s=0.0005)])
def test_stages_that_drop_what_is_void_are_no_slower(times: Times, right: float) -> None:
    hearing, deaf = SimulatedLine(_LIMITS, times, right), SimulatedLine(_LIMITS, times, right, hears_voids=False)
    assert hearing.tokens_per_s(_N_TOKENS) >= 0.99 * deaf.tokens_per_s(_N_TOKENS)
    assert hearing.n_dropped > 20


@pytest.mark.parametrize("n_stages", [1, 3])
def test_a_draft_model_that_is_hardly_ever_right_costs_next_to_nothing(n_stages: int) -> None:
    limits = replace(_LIMITS, n_stages=n_stages)
    without = _speed(replace(limits, n_drafts=0, has_draft_model=False), Times(), 0.0)
    assert _speed(limits, Times(), 0.02) >= 0.97 * without
