# SPDX-License-Identifier: MIT
"""What goes and what stays where a context is full; the stages' caches and the coordinator's idea of them agree."""

from collections import deque
from dataclasses import replace

import pytest

from coordinator.context_shift import n_kept
from coordinator.frames import PlannedFrame, Remove, Request, SampledRow, Shift
from coordinator.pace import Pace
from coordinator.scheduler import Scheduler
from coordinator.sequence import Limits
from native import SamplingParams

_LIMITS = Limits(n_slots=2, n_batch=64, n_ctx=48, n_stages=2, n_waiting=2, shifts=True)


class _Cache:
    """Of all stages: for each sequence, tokens by position. What follows depends on all that it holds."""

    def __init__(self) -> None:
        self._tokens: dict[int, dict[int, int]] = {}
        self._last: int | None = None

    def compute(self, frame: PlannedFrame) -> list[SampledRow]:
        for operation in frame.operations:
            if isinstance(operation, Remove):
                end = operation.end
                own = self._tokens.setdefault(operation.seq_id, {})
                kept = {at: own[at] for at in own if at < operation.start or (end is not None and at >= end)}
                self._tokens[operation.seq_id] = kept
            elif isinstance(operation, Shift):
                own = self._tokens[operation.seq_id]
                moved = {at + operation.delta if at >= operation.start else at: token for at, token in own.items()}
                assert len(moved) == len(own)
                self._tokens[operation.seq_id] = moved
            else:
                self._tokens[operation.target] = dict(self._tokens[operation.source])
        rows = []
        for row, (token, position, seq_id) in enumerate(zip(frame.tokens, frame.positions, frame.seq_ids, strict=True)):
            own = self._tokens.setdefault(seq_id, {})
            assert position == len(own) < _LIMITS.n_ctx
            assert all(at in own for at in range(position))
            own[position] = token
            if row in frame.outputs:
                is_passed_over = row in frame.drafts and token != self._last
                self._last = None if is_passed_over else self._next(own)
                rows.append(SampledRow(seq_id, self._last))
        return rows

    @staticmethod
    def _next(own: dict[int, int]) -> int:
        """Repeats itself, so that it can be guessed; and tells a text from another that has lost its middle."""
        texts = [own[at] for at in sorted(own)]
        return 10 + (texts[-1] + (sum(texts) % 7 == 0)) % 5


def _generated(limits: Limits, n_tokens: int, n_keep: int) -> tuple[list[int], int]:
    """The tokens of one request, and how many of them were guessed."""
    scheduler, cache = Scheduler(limits, [0]), _Cache()
    scheduler.submit(Request(1, tuple(range(100, 108)), n_tokens, SamplingParams(), n_keep=n_keep))
    line: deque[PlannedFrame] = deque()
    tokens: list[int] = []
    n_guessed = 0
    while True:
        while (frame := scheduler.next_frame()) is not None:
            line.append(frame)
        if not line:
            return tokens, n_guessed
        frame = line.popleft()
        for outcome in scheduler.result(frame.number, cache.compute(frame)):
            assert outcome.row.token is not None
            tokens.append(outcome.row.token)
            n_guessed += outcome.was_guessed


@pytest.mark.parametrize("n_keep", [0, 8, 44])
def test_guesses_change_nothing_of_a_text_that_shifts(n_keep: int) -> None:
    tokens, _ = _generated(_LIMITS, 200, n_keep)
    assert len(tokens) == 200
    guessed, n_guessed = _generated(replace(_LIMITS, n_drafts=8), 200, n_keep)
    assert guessed == tokens
    assert n_guessed > 0


@pytest.mark.parametrize("n_keep", [0, 8])
def test_a_text_that_shifted_goes_on_in_another_line_and_with_another_coordinator(n_keep: int) -> None:
    """After any of its tokens, the last before a shift and the first after it among them."""
    request = Request(1, tuple(range(100, 108)), 70, SamplingParams(), n_keep=n_keep)
    expected, _ = _generated(_LIMITS, 70, n_keep)
    for n_before in range(35, 65):
        scheduler, cache = Scheduler(_LIMITS, [0]), _Cache()
        scheduler.submit(request, expected[:n_before])
        assert expected[:n_before] + _rest(scheduler, cache) == expected
        scheduler, cache = Scheduler(_LIMITS, [0]), _Cache()
        scheduler.submit(request)
        tokens = _rest(scheduler, cache, n_before)
        scheduler.restart(_LIMITS, Pace(_LIMITS.n_stages))
        assert tokens + _rest(scheduler, _Cache()) == expected


def _rest(scheduler: Scheduler, cache: _Cache, n_tokens: int = 1000) -> list[int]:
    """What is sampled from now on, so many tokens at most."""
    tokens: list[int] = []
    while len(tokens) < n_tokens and (frame := scheduler.next_frame()) is not None:
        outcomes = scheduler.result(frame.number, cache.compute(frame))
        tokens += [outcome.row.token for outcome in outcomes if outcome.row.token is not None]
    return tokens


def test_half_of_what_need_not_stay_goes_with_the_frame_of_the_next_token() -> None:
    scheduler, cache = Scheduler(_LIMITS, [0]), _Cache()
    scheduler.submit(Request(1, tuple(range(100, 108)), 100, SamplingParams(), n_keep=8))
    frame = scheduler.next_frame()
    while frame is not None and not any(isinstance(operation, Shift) for operation in frame.operations):
        scheduler.result(frame.number, cache.compute(frame))
        frame = scheduler.next_frame()
    assert frame is not None
    # 47 of 48 places are taken, 39 of them not to be kept.
    assert frame.operations == [Remove(0, 8, 27), Shift(0, 27, -19)]
    assert frame.positions == [28]


def test_only_what_was_kept_serves_another_request() -> None:
    scheduler, cache = Scheduler(_LIMITS, [0]), _Cache()
    prompt = tuple(range(100, 130))
    scheduler.submit(Request(1, prompt, 60, SamplingParams(), n_keep=20))
    while (frame := scheduler.next_frame()) is not None:
        scheduler.result(frame.number, cache.compute(frame))
    scheduler.submit(Request(2, prompt, 1, SamplingParams()))
    frame = scheduler.next_frame()
    assert frame is not None
    assert (frame.starts[0].n_reused, frame.operations) == (20, [Remove(0, 20)])


def test_a_prompt_is_kept_with_the_token_that_texts_begin_with_and_never_the_whole_context() -> None:
    assert n_kept(0, 30, 256, adds_bos=False) == 0
    assert n_kept(5, 30, 256, adds_bos=True) == 6
    assert n_kept(-1, 30, 256, adds_bos=False) == 30
    assert n_kept(-1, 255, 256, adds_bos=True) == 252
