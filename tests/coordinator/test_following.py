# SPDX-License-Identifier: MIT
"""A stream that is alone has a frame in the line that follows the one before: when, and what becomes of it."""

from dataclasses import replace

from coordinator.frames import PlannedFrame, Remove, Request, SampledRow
from coordinator.generation import FinishReason
from coordinator.scheduler import Scheduler
from coordinator.sequence import Limits
from native import SamplingParams

_END = 0
_LIMITS = Limits(n_slots=2, n_batch=64, n_ctx=64, n_stages=2, n_waiting=3)


def _request(request_id: int, max_tokens: int = 8) -> Request:
    return Request(request_id, (100, 101, 102), max_tokens, SamplingParams())


def _scheduler(limits: Limits = _LIMITS, *, can_return: bool = True) -> Scheduler:
    scheduler = Scheduler(limits, [_END])
    if can_return:
        scheduler.note_returns()
    return scheduler


def _frames(scheduler: Scheduler) -> list[PlannedFrame]:
    frames = []
    while (frame := scheduler.next_frame()) is not None:
        frames.append(frame)
    return frames


def _begun(scheduler: Scheduler, max_tokens: int = 8) -> list[PlannedFrame]:
    """The frames after a prompt of three tokens, whose first token was 7."""
    scheduler.submit(_request(1, max_tokens))
    (prompt,) = _frames(scheduler)
    scheduler.result(prompt.number, [SampledRow(0, 7)])
    return _frames(scheduler)


def test_one_frame_follows_the_one_in_the_line_and_another_when_that_is_back() -> None:
    scheduler = _scheduler()
    sure, following = _begun(scheduler)
    assert (sure.tokens, sure.positions, sure.returns, sure.follows) == ([7], [3], True, 0)
    assert (following.positions, following.returns, following.follows) == ([4], True, sure.number)
    assert (following.outputs, following.drafts) == ([0], [0])
    (outcome,) = scheduler.result(sure.number, [SampledRow(0, 8)])
    assert (outcome.row.token, outcome.was_guessed) == (8, False)
    (after,) = _frames(scheduler)
    assert (after.positions, after.follows, after.operations) == ([5], following.number, [])


def test_nothing_follows_the_frame_of_the_last_token() -> None:
    scheduler = _scheduler()
    sure, following = _begun(scheduler, max_tokens=3)
    assert (sure.returns, following.returns) == (True, False)
    scheduler.result(sure.number, [SampledRow(0, 8)])
    assert _frames(scheduler) == []
    (outcome,) = scheduler.result(following.number, [SampledRow(0, 9)])
    assert outcome.finish is FinishReason.LENGTH


def test_nothing_follows_beyond_the_context() -> None:
    frames = _begun(_scheduler(replace(_LIMITS, n_ctx=5)), max_tokens=2)
    assert [frame.returns for frame in frames] == [False]


def test_what_followed_the_end_is_forgotten_before_its_slot_is_used_again() -> None:
    scheduler = _scheduler()
    text = tuple(range(100, 140))
    scheduler.submit(Request(1, text, 8, SamplingParams()))
    (prompt,) = _frames(scheduler)
    scheduler.result(prompt.number, [SampledRow(0, 7)])
    sure, following = _frames(scheduler)
    (outcome,) = scheduler.result(sure.number, [SampledRow(0, _END)])
    assert outcome.finish is FinishReason.STOP
    scheduler.submit(Request(2, (*text, 7, 9), 8, SamplingParams()))
    (again,) = _frames(scheduler)
    assert (again.tokens, again.positions, again.seq_ids) == ([9], [41], [0])
    assert again.operations == [Remove(0, 41)]
    assert scheduler.result(following.number, [SampledRow(0, None)]) == []
    (outcome,) = scheduler.result(again.number, [SampledRow(0, 5)])
    assert outcome.request_id == 2


def test_a_second_stream_ends_it_and_what_was_sent_counts() -> None:
    scheduler = _scheduler()
    sure, following = _begun(scheduler)
    scheduler.submit(_request(2))
    (prompt,) = _frames(scheduler)
    scheduler.result(sure.number, [SampledRow(0, 8)])
    scheduler.result(following.number, [SampledRow(0, 9)])
    (next_one,) = _frames(scheduler)
    assert (next_one.tokens, next_one.positions, next_one.follows) == ([9], [5], 0)
    scheduler.result(prompt.number, [SampledRow(1, 7)])
    assert not any(frame.follows or frame.returns for frame in _frames(scheduler))


def test_nothing_follows_where_it_cannot() -> None:
    for scheduler in (
        _scheduler(can_return=False),
        _scheduler(replace(_LIMITS, can_forget_part=False)),
        _scheduler(replace(_LIMITS, n_drafts=8)),
    ):
        assert [(frame.returns, frame.follows) for frame in _begun(scheduler)] == [(False, 0)]


def test_a_stream_that_pauses_goes_on_from_where_it_is() -> None:
    scheduler = _scheduler()
    sure, following = _begun(scheduler)
    scheduler.pause(1)
    scheduler.result(sure.number, [SampledRow(0, 8)])
    scheduler.result(following.number, [SampledRow(0, 9)])
    assert _frames(scheduler) == []
    scheduler.resume(1)
    first, second = _frames(scheduler)
    assert (first.tokens, first.positions, first.follows) == ([9], [5], 0)
    assert second.follows == first.number
