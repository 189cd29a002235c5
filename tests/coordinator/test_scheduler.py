# SPDX-License-Identifier: MIT
"""The scheduler: what goes into frames and in what order; whatever happens, every request ends and no slot leaks."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.errors import OverloadedError
from coordinator.frames import Outcome, PlannedFrame, Request, SampledRow
from coordinator.generation import FinishReason
from coordinator.scheduler import Limits, LineOrderError, Scheduler
from native import SamplingParams

_END = 0
_WORD = 7


def _limits(**changes: int) -> Limits:
    return Limits(**{"n_slots": 2, "n_batch": 4, "n_ctx": 64, "n_stages": 2, "n_waiting": 3, **changes})


def _request(request_id: int, n_prompt: int = 3, max_tokens: int = 8) -> Request:
    return Request(request_id, tuple(range(100, 100 + n_prompt)), max_tokens, SamplingParams())


def _scheduler(**changes: int) -> Scheduler:
    return Scheduler(_limits(**changes), [_END])


def _frames(scheduler: Scheduler) -> list[PlannedFrame]:
    """All that it wants to send now."""
    frames = []
    while (frame := scheduler.next_frame()) is not None:
        frames.append(frame)
    return frames


def _answer(scheduler: Scheduler, frame: PlannedFrame, token: int = _WORD) -> list[Outcome]:
    return scheduler.result(frame.number, [SampledRow(frame.seq_ids[row], token) for row in frame.outputs])


def test_a_prompt_starts_its_sequence_and_only_its_last_token_is_sampled() -> None:
    scheduler = _scheduler()
    scheduler.submit(_request(1, n_prompt=3))
    (frame,) = _frames(scheduler)
    assert [start.request.id for start in frame.starts] == [1]
    assert (frame.tokens, frame.positions, frame.seq_ids) == ([100, 101, 102], [0, 1, 2], [0, 0, 0])
    assert frame.outputs == [2]


def test_a_long_prompt_is_cut_into_full_batches_that_follow_each_other_without_waiting() -> None:
    scheduler = _scheduler(n_batch=4, n_stages=2)
    scheduler.submit(_request(1, n_prompt=10))
    frames = _frames(scheduler)
    assert [frame.positions for frame in frames] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [frame.outputs for frame in frames] == [[], [], [1]]
    assert [len(frame.starts) for frame in frames] == [1, 0, 0]


def test_no_more_chunks_are_in_the_line_than_two_per_stage() -> None:
    scheduler = _scheduler(n_batch=4, n_stages=2)
    scheduler.submit(_request(1, n_prompt=40))
    first = _frames(scheduler)
    assert len(first) == 4
    _answer(scheduler, first[0])
    assert len(_frames(scheduler)) == 1


def test_a_sampled_token_is_decoded_at_the_next_position() -> None:
    scheduler = _scheduler()
    scheduler.submit(_request(1, n_prompt=3))
    (prompt,) = _frames(scheduler)
    (outcome,) = _answer(scheduler, prompt, token=42)
    assert (outcome.request_id, outcome.row.token, outcome.finish) == (1, 42, None)
    (frame,) = _frames(scheduler)
    assert (frame.tokens, frame.positions, frame.seq_ids, frame.outputs) == ([42], [3], [0], [0])


def test_sequences_that_have_a_token_share_one_decode_frame_and_one_such_frame_is_in_the_line() -> None:
    scheduler = _scheduler(n_batch=8)
    scheduler.submit(_request(1))
    scheduler.submit(_request(2))
    one, two = _frames(scheduler)
    _answer(scheduler, one)
    (decode,) = _frames(scheduler)
    _answer(scheduler, two)
    assert _frames(scheduler) == []
    _answer(scheduler, decode)
    (both,) = _frames(scheduler)
    assert (both.seq_ids, both.positions) == ([0, 1], [4, 3])


def test_a_long_prompt_delays_a_running_sequence_by_at_most_one_chunk() -> None:
    scheduler = _scheduler(n_batch=4)
    scheduler.submit(_request(1, n_prompt=2, max_tokens=20))
    line = deque(_frames(scheduler))
    scheduler.submit(_request(2, n_prompt=40))
    kinds = []
    while line:
        frame = line.popleft()
        kinds.append("decode" if frame.seq_ids == [0] and frame.positions[0] >= 2 else "prefill")
        _answer(scheduler, frame)
        line.extend(_frames(scheduler))
        if kinds.count("decode") > 8:
            break
    between = "".join(kind[0] for kind in kinds).split("d")[1:-1]
    assert between
    assert max(map(len, between)) <= 1
    assert "p" in between


def test_an_end_of_generation_token_ends_it_and_is_not_counted() -> None:
    scheduler = _scheduler()
    scheduler.submit(_request(1, max_tokens=1))
    (frame,) = _frames(scheduler)
    (outcome,) = _answer(scheduler, frame, token=_END)
    assert (outcome.finish, outcome.is_end) == (FinishReason.STOP, True)


def test_the_last_allowed_token_ends_it_for_length_and_is_not_decoded() -> None:
    scheduler = _scheduler()
    scheduler.submit(_request(1, max_tokens=1))
    (frame,) = _frames(scheduler)
    (outcome,) = _answer(scheduler, frame)
    assert (outcome.finish, outcome.is_end) == (FinishReason.LENGTH, False)
    (after,) = _frames(scheduler)
    assert (after.removals, after.tokens) == ([0], [])


def test_a_row_that_could_not_be_sampled_fails_its_request_alone() -> None:
    scheduler = _scheduler(n_batch=8)
    scheduler.submit(_request(1))
    scheduler.submit(_request(2))
    one, two = _frames(scheduler)
    (failed,) = scheduler.result(one.number, [SampledRow(0, None, error="the grammar admits no token here")])
    assert failed.failed == "the grammar admits no token here"
    (fine,) = _answer(scheduler, two)
    assert (fine.request_id, fine.failed) == (2, "")


def test_a_cancelled_request_frees_its_slot_at_once_and_its_cache_with_the_next_frame() -> None:
    scheduler = _scheduler(n_slots=1)
    scheduler.submit(_request(1))
    scheduler.submit(_request(2))
    (frame,) = _frames(scheduler)
    assert scheduler.n_waiting == 1
    assert scheduler.end(1)
    assert (scheduler.n_running, scheduler.n_waiting) == (1, 0)
    (following,) = _frames(scheduler)
    assert following.removals == [0]
    assert [(start.seq_id, start.request.id) for start in following.starts] == [(0, 2)]
    assert _answer(scheduler, frame) == []
    assert [outcome.request_id for outcome in _answer(scheduler, following)] == [2]


def test_a_cancelled_request_that_waited_leaves_no_trace() -> None:
    scheduler = _scheduler(n_slots=1)
    scheduler.submit(_request(1))
    scheduler.submit(_request(2))
    assert scheduler.end(2)
    assert not scheduler.end(2)
    assert [start.request.id for frame in _frames(scheduler) for start in frame.starts] == [1]


def test_an_idle_line_gets_a_frame_of_operations_alone() -> None:
    scheduler = _scheduler()
    scheduler.submit(_request(1))
    (frame,) = _frames(scheduler)
    scheduler.end(1)
    (cleaning,) = _frames(scheduler)
    assert (cleaning.removals, cleaning.tokens, cleaning.outputs) == ([0], [], [])
    assert _answer(scheduler, frame) == []
    assert scheduler.result(cleaning.number, []) == []


def test_requests_beyond_slots_and_queue_are_refused() -> None:
    scheduler = _scheduler(n_slots=1, n_waiting=1)
    scheduler.submit(_request(1))
    scheduler.submit(_request(2))
    with pytest.raises(OverloadedError) as refused:
        scheduler.submit(_request(3))
    assert refused.value.n_waiting == 1
    scheduler.end(1)
    scheduler.submit(_request(3))


def test_waiting_requests_come_in_the_order_they_were_submitted() -> None:
    scheduler = _scheduler(n_slots=1)
    for request_id in (1, 2, 3):
        scheduler.submit(_request(request_id, max_tokens=1))
    order = []
    while frames := _frames(scheduler):
        for frame in frames:
            order += [start.request.id for start in frame.starts]
            _answer(scheduler, frame)
    assert order == [1, 2, 3]


def test_an_answer_to_another_frame_is_refused() -> None:
    scheduler = _scheduler()
    scheduler.submit(_request(1))
    (frame,) = _frames(scheduler)
    with pytest.raises(LineOrderError):
        scheduler.result(frame.number + 1, [SampledRow(0, _WORD)])
    with pytest.raises(LineOrderError):
        scheduler.result(frame.number, [])


@pytest.mark.parametrize(
    "request_", [_request(1, n_prompt=0), _request(1, max_tokens=0), _request(1, n_prompt=60, max_tokens=8)]
)
def test_a_request_that_cannot_be_held_is_refused(request_: Request) -> None:
    with pytest.raises(ValueError, match=r"request|context"):
        _scheduler().submit(request_)


class _WatchedLine:
    """A line that checks what it is sent against what the contract allows, and remembers what it owes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_flight: deque[PlannedFrame] = deque()
        self.n_frames = 0
        # Per sequence that has begun and was not removed: its request and the position that comes next.
        self.sequences: dict[int, tuple[Request, int]] = {}

    def send(self, frame: PlannedFrame) -> None:
        self.n_frames += 1
        assert frame.number == self.n_frames
        assert len(frame.tokens) == len(frame.positions) == len(frame.seq_ids) <= self.limits.n_batch
        for seq_id in frame.removals:
            del self.sequences[seq_id]
        for start in frame.starts:
            assert start.seq_id not in self.sequences, "a slot is used again before its cache was dropped"
            self.sequences[start.seq_id] = (start.request, 0)
        for row in range(len(frame.tokens)):
            self._check_token(frame, row)
        self.in_flight.append(frame)
        assert sum(map(self.is_decode, self.in_flight)) <= 1
        self._check_delay()

    def is_decode(self, frame: PlannedFrame) -> bool:
        return bool(frame.tokens) and not self._is_prefill(frame)

    def _is_prefill(self, frame: PlannedFrame) -> bool:
        return bool(frame.tokens) and frame.tokens[0] >= 100  # as `_request` makes prompts

    def _check_token(self, frame: PlannedFrame, row: int) -> None:
        request, position = self.sequences[frame.seq_ids[row]]
        assert frame.positions[row] == position < self.limits.n_ctx
        n_prompt = len(request.prompt)
        if position < n_prompt:
            assert frame.tokens[row] == request.prompt[position]
        assert (row in frame.outputs) == (position >= n_prompt - 1)
        self.sequences[frame.seq_ids[row]] = (request, position + 1)

    def _check_delay(self) -> None:
        behind = 0
        brings_tokens = False
        for frame in self.in_flight:
            if brings_tokens and self._is_prefill(frame):
                behind += len(frame.tokens)
            brings_tokens = brings_tokens or bool(frame.outputs)
        assert behind <= self.limits.n_batch


_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 20), st.integers(1, 6)),
        st.tuples(st.just("end"), st.integers(0, 12), st.just(0)),
        st.tuples(st.just("answer"), st.sampled_from([_END, _WORD, _WORD, _WORD, -1]), st.just(0)),
        st.tuples(st.just("send"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 3), st.integers(3, 6), st.integers(1, 3), st.integers(0, 3), _EVENTS)
def test_whatever_happens_every_request_ends_and_no_slot_leaks(
    n_slots: int, n_batch: int, n_stages: int, n_waiting: int, events: list[tuple[str, int, int]]
) -> None:
    limits = _limits(n_slots=n_slots, n_batch=n_batch, n_stages=n_stages, n_waiting=n_waiting, n_ctx=32)
    scheduler, line = Scheduler(limits, [_END]), _WatchedLine(limits)
    alive: set[int] = set()
    n_submitted = 0

    def send_all() -> None:
        while (frame := scheduler.next_frame()) is not None:
            line.send(frame)

    def answer(token: int) -> None:
        frame = line.in_flight.popleft()
        rows = [SampledRow(frame.seq_ids[row], None if token < 0 else token) for row in frame.outputs]
        for outcome in scheduler.result(frame.number, rows):
            assert outcome.request_id in alive
            if outcome.finish is not None or outcome.failed:
                alive.remove(outcome.request_id)

    for kind, first, second in events:
        if kind == "submit":
            n_submitted += 1
            try:
                scheduler.submit(_request(n_submitted, n_prompt=first, max_tokens=second))
                alive.add(n_submitted)
            except OverloadedError:
                assert scheduler.n_running == n_slots
        elif kind == "end":
            assert scheduler.end(first) == (first in alive)
            alive.discard(first)
        elif kind == "answer" and line.in_flight:
            answer(first)
        elif kind == "send":
            send_all()
    for _ in range(1000):
        send_all()
        if not line.in_flight:
            break
        answer(_WORD)
    assert alive == set()
    assert (scheduler.n_running, scheduler.n_waiting, scheduler.n_in_flight) == (0, 0, 0)
    assert line.sequences == {}
