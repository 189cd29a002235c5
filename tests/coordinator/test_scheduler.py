# SPDX-License-Identifier: MIT
"""The scheduler: what goes into frames and in what order; whatever happens, every request ends and no slot leaks."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.errors import OverloadedError
from coordinator.frame_order import LineOrderError
from coordinator.frames import Copy, Outcome, PlannedFrame, Remove, Request, SampledRow, Shift
from coordinator.generation import FinishReason
from coordinator.pace import Pace
from coordinator.scheduler import Scheduler
from coordinator.sequence import Limits
from native import SamplingParams

_END = 0
_WORD = 7


def _limits(**changes: int) -> Limits:
    limits = {"n_slots": 2, "n_batch": 4, "n_ctx": 64, "n_stages": 2, "n_waiting": 3, **changes}
    return Limits(limits["n_slots"], limits["n_batch"], limits["n_ctx"], limits["n_stages"], limits["n_waiting"])


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


def test_a_long_prompt_is_cut_into_chunks_that_follow_each_other_without_waiting() -> None:
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


def _running(n_sequences: int, *, seconds: list[float], **changes: int) -> tuple[Scheduler, deque[PlannedFrame]]:
    """Sequences that all decode, on two stages that take `seconds` [fixed, per token]; and the frames in the line."""

    def expected(n_tokens: int) -> list[float]:
        return [seconds[0] + seconds[1] * n_tokens] * 2

    limits = _limits(**{"n_slots": n_sequences, "n_batch": 64, "n_waiting": n_sequences, "n_ctx": 128, **changes})
    scheduler = Scheduler(limits, [_END], Pace(2, expected))
    for number in range(n_sequences):
        scheduler.submit(_request(number, max_tokens=60))
    line = deque(_frames(scheduler))
    while len(scheduler._decoding) < n_sequences:
        _step(scheduler, line)
    for _ in range(4 * n_sequences):
        _step(scheduler, line)
    return scheduler, line


def _step(scheduler: Scheduler, line: deque[PlannedFrame]) -> PlannedFrame:
    frame = line.popleft()
    _answer(scheduler, frame)
    line.extend(_frames(scheduler))
    return frame


def test_where_a_stage_takes_as_long_for_one_token_as_for_many_all_sequences_share_one_frame() -> None:
    scheduler, line = _running(8, seconds=[1.0, 0.0])
    assert [frame.seq_ids for frame in line] == [list(range(8))]
    assert [frame.seq_ids for frame in [_step(scheduler, line), *line]] == [list(range(8))] * 2


def test_where_a_stage_takes_its_time_for_every_token_there_is_a_lane_for_each_stage() -> None:
    scheduler, line = _running(8, seconds=[0.0, 1.0])
    assert sorted(frame.seq_ids for frame in line) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    for _ in range(6):
        _step(scheduler, line)
        assert sorted(frame.seq_ids for frame in line) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_lanes_even_out_when_requests_end_and_never_wait_for_each_other() -> None:
    scheduler, line = _running(8, seconds=[0.0, 1.0])
    for number in (0, 1, 2):
        scheduler.end(number)
    for _ in range(6):
        _step(scheduler, line)
        assert line  # something is always under way
    assert sorted(len(frame.seq_ids) for frame in line) == [2, 3]


def test_a_lane_has_the_sequences_of_neighbouring_slots() -> None:
    """llama.cpp computes those with consecutive ids together, and others one after another."""
    scheduler, line = _running(9, seconds=[0.0, 1.0])
    for _ in range(9):
        frame = _step(scheduler, line)
        assert frame.seq_ids == list(range(frame.seq_ids[0], frame.seq_ids[-1] + 1))


def test_a_long_prompt_delays_running_sequences_by_one_small_chunk_at_a_time() -> None:
    scheduler, line = _running(2, seconds=[1.0, 0.1], n_ctx=512, n_slots=3)
    scheduler.submit(Request(9, tuple(range(1000, 1400)), 5, SamplingParams()))
    line.extend(_frames(scheduler))
    kinds = ""
    for _ in range(40):
        frame = _step(scheduler, line)
        kinds += "d" if frame.is_decode else "p"
        assert frame.is_decode or len(frame.tokens) <= 32
    assert "p" in kinds
    assert "pp" not in kinds.lstrip("p")


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
    assert (_frames(scheduler), scheduler.n_running) == ([], 0)


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
    assert (following.operations, following.ends) == ([Remove(0)], [0])
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


def _served(scheduler: Scheduler, request: Request) -> list[PlannedFrame]:
    """Runs a request alone to its end; gives its frames."""
    scheduler.submit(request)
    frames = []
    while new := _frames(scheduler):
        frames += new
        for frame in new:
            _answer(scheduler, frame)
    return frames


_LONG = tuple(range(100, 140))


def test_a_chat_goes_on_from_what_its_last_turn_left_in_the_cache() -> None:
    scheduler = _scheduler(n_slots=3, n_batch=64, n_ctx=128)
    _served(scheduler, Request(1, _LONG, 4, SamplingParams()))
    turn = (*_LONG, _WORD, _WORD, _WORD, _WORD, 50, 51)
    first, *_ = _served(scheduler, Request(2, turn, 4, SamplingParams()))
    # The fourth word was sampled, and never computed.
    assert (first.tokens, first.positions[0], first.seq_ids[0]) == ([_WORD, 50, 51], 43, 0)
    assert (first.operations, first.starts[0].n_reused) == ([], 43)
    assert (scheduler.n_prompt_tokens, scheduler.n_reused_tokens) == (40 + 46, 43)


def test_what_goes_beyond_the_common_beginning_is_forgotten() -> None:
    scheduler = _scheduler(n_slots=1, n_batch=64, n_ctx=128)
    _served(scheduler, Request(1, _LONG, 4, SamplingParams()))
    first, *_ = _served(scheduler, Request(2, (*_LONG[:30], 7, 8), 4, SamplingParams()))
    assert (first.operations, first.positions) == ([Remove(0, 30)], [30, 31])


def test_a_beginning_that_another_request_is_using_is_copied() -> None:
    scheduler = _scheduler(n_slots=2, n_batch=64, n_ctx=128)
    scheduler.submit(Request(1, _LONG, 4, SamplingParams()))
    _frames(scheduler)
    scheduler.submit(Request(2, (*_LONG[:30], 7, 8), 4, SamplingParams()))
    (first,) = _frames(scheduler)
    assert first.operations == [Remove(1), Copy(0, 1), Remove(1, 30)]
    assert (first.seq_ids, first.positions) == ([1, 1], [30, 31])


def test_a_model_that_cannot_forget_a_part_goes_on_only_from_where_a_sequence_ended() -> None:
    limits = Limits(2, n_batch=64, n_ctx=128, n_stages=2, n_waiting=3, can_forget_part=False)
    scheduler = Scheduler(limits, [_END])
    _served(scheduler, Request(1, _LONG, 4, SamplingParams()))
    other, *_ = _served(scheduler, Request(2, (*_LONG[:30], 7, 8), 4, SamplingParams()))
    assert (other.positions[0], other.seq_ids[0]) == (0, 1)
    same, *_ = _served(scheduler, Request(3, (*_LONG, _WORD, _WORD, _WORD, 50), 4, SamplingParams()))
    assert (same.operations, same.tokens, same.positions) == ([], [50], [43])


def test_who_does_not_want_the_cache_computes_all_of_the_prompt() -> None:
    scheduler = _scheduler(n_slots=1, n_batch=64, n_ctx=128)
    _served(scheduler, Request(1, _LONG, 4, SamplingParams()))
    first, *_ = _served(scheduler, Request(2, _LONG, 4, SamplingParams(), reuse=False))
    assert (first.operations, len(first.tokens)) == ([Remove(0)], 40)


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


def test_a_paused_request_keeps_its_slot_and_its_token_and_goes_on_where_it_was() -> None:
    scheduler, line = _running(3, seconds=[1.0, 0.0])
    scheduler.pause(1)
    last = _step(scheduler, line)  # what is in the line still comes
    assert 1 in last.seq_ids
    for _ in range(3):
        assert _step(scheduler, line).seq_ids == [0, 2]
    assert scheduler.n_running == 3
    scheduler.resume(1)
    _step(scheduler, line)
    again = _step(scheduler, line)
    row = again.seq_ids.index(1)
    assert again.positions[row] == last.positions[last.seq_ids.index(1)] + 1


def test_a_request_that_is_paused_before_its_first_token_is_not_decoded() -> None:
    scheduler = _scheduler()
    scheduler.submit(_request(1))
    (prompt,) = _frames(scheduler)
    scheduler.pause(1)
    assert [outcome.request_id for outcome in _answer(scheduler, prompt)] == [1]
    assert _frames(scheduler) == []
    scheduler.resume(1)
    assert [frame.seq_ids for frame in _frames(scheduler)] == [[0]]


def test_a_paused_request_that_ends_frees_its_slot() -> None:
    scheduler, line = _running(2, seconds=[1.0, 0.0])
    scheduler.pause(0)
    assert scheduler.end(0)
    assert scheduler.n_running == 1
    scheduler.resume(0)
    _step(scheduler, line)
    assert _step(scheduler, line).seq_ids == [1]


def test_in_another_line_a_sequence_is_prefilled_up_to_its_last_token_and_goes_on_from_that() -> None:
    scheduler = _scheduler(n_batch=4, n_stages=2)
    scheduler.submit(_request(1, n_prompt=3))
    (prompt,) = _frames(scheduler)
    _answer(scheduler, prompt, token=41)
    for token in (42, 43):
        (frame,) = _frames(scheduler)
        _answer(scheduler, frame, token=token)
    (lost,) = _frames(scheduler)
    scheduler.restart(_limits(n_batch=4, n_stages=3), Pace(3))
    first, second, decode = _frames(scheduler)
    assert [frame.number for frame in (first, second, decode)] == [1, 2, 3]
    assert (first.tokens + second.tokens, first.positions + second.positions) == ([100, 101, 102, 41, 42], [*range(5)])
    assert [frame.outputs for frame in (first, second, decode)] == [[], [], [0]]
    assert [(start.request.id, start.generated, start.n_reused) for start in first.starts] == [(1, (41, 42, 43), 0)]
    assert (decode.tokens, decode.positions, decode.is_decode) == (lost.tokens, lost.positions, True)
    assert (scheduler.n_prompt_tokens, scheduler.under_way()) == (3, [1])


def test_what_was_paused_waited_or_had_no_token_yet_goes_on_in_another_line_as_it_was() -> None:
    scheduler = _scheduler(n_batch=4, n_stages=2)
    for number, n_prompt in ((1, 3), (2, 7), (3, 2)):
        scheduler.submit(_request(number, n_prompt=n_prompt))
    (prompt, *_) = _frames(scheduler)
    _answer(scheduler, prompt)
    scheduler.pause(1)
    scheduler.restart(_limits(n_batch=4, n_stages=2), Pace(2))
    frames = _frames(scheduler)
    assert [start.request.id for frame in frames for start in frame.starts] == [1, 2]
    assert scheduler.n_waiting == 1
    for frame in frames:  # of 1 nothing is decoded, and 2 has its first token
        outcomes = _answer(scheduler, frame)
    assert [outcome.request_id for outcome in outcomes] == [2]
    (decode,) = _frames(scheduler)
    assert decode.seq_ids == [1]
    scheduler.resume(1)
    _answer(scheduler, decode)
    next_positions = [pair for frame in _frames(scheduler) for pair in zip(frame.seq_ids, frame.positions, strict=True)]
    assert sorted(next_positions) == [(0, 3), (1, 8)]


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
        # What each sequence's cache holds when all that was sent is computed, and the request it serves.
        self.caches: dict[int, list[int]] = {seq_id: [] for seq_id in range(limits.n_slots)}
        self.requests: dict[int, Request] = {}
        self.n_generated: dict[int, int] = {}

    def send(self, frame: PlannedFrame) -> None:
        self.n_frames += 1
        assert frame.number == self.n_frames
        assert len(frame.tokens) == len(frame.positions) == len(frame.seq_ids) <= self.limits.n_batch
        assert frame.tokens
        for operation in frame.operations:
            assert not isinstance(operation, Shift)
            if isinstance(operation, Remove):
                del self.caches[operation.seq_id][operation.start :]
            else:
                assert not self.caches[operation.target]
                self.caches[operation.target] = list(self.caches[operation.source])
        for seq_id in frame.ends:
            del self.requests[seq_id]
        for start in frame.starts:
            assert start.seq_id not in self.requests, "a slot is used again before its sampler was dropped"
            self.requests[start.seq_id] = start.request
            self.n_generated[start.seq_id] = len(start.generated)
            assert start.n_reused == len(self.caches[start.seq_id])
            assert self.caches[start.seq_id] == list(start.request.prompt[: start.n_reused])
        for row in range(len(frame.tokens)):
            self._check_token(frame, row)
        self.in_flight.append(frame)
        in_decode = [seq_id for frame in self.in_flight if frame.is_decode for seq_id in frame.seq_ids]
        assert len(in_decode) == len(set(in_decode)), "a sequence is in two decode frames"

    def _check_token(self, frame: PlannedFrame, row: int) -> None:
        seq_id = frame.seq_ids[row]
        cache, request = self.caches[seq_id], self.requests[seq_id]
        assert frame.positions[row] == len(cache) < self.limits.n_ctx
        if len(cache) < len(request.prompt):
            assert frame.tokens[row] == request.prompt[len(cache)]
        cache.append(frame.tokens[row])
        n_known = len(request.prompt) + self.n_generated[seq_id]
        assert (row in frame.outputs) == (len(cache) >= n_known)


_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 50), st.integers(1, 6)),
        st.tuples(st.just("end"), st.integers(0, 12), st.just(0)),
        st.tuples(st.just("answer"), st.sampled_from([_END, _WORD, _WORD, _WORD, -1]), st.just(0)),
        st.tuples(st.sampled_from(["send", "restart"]), st.integers(0, 1), st.just(0)),
        st.tuples(st.sampled_from(["pause", "resume"]), st.integers(0, 12), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(st.integers(1, 3), st.integers(3, 6), st.integers(1, 3), st.integers(0, 3), _EVENTS)
def test_whatever_happens_every_request_ends_and_no_slot_leaks(
    n_slots: int, n_batch: int, n_stages: int, n_waiting: int, events: list[tuple[str, int, int]]
) -> None:
    limits = _limits(n_slots=n_slots, n_batch=n_batch, n_stages=n_stages, n_waiting=n_waiting, n_ctx=64)
    line: _WatchedLine
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
        elif kind == "restart":
            scheduler.restart(limits, Pace(n_stages), one_by_one=bool(first))
            line = _WatchedLine(limits)
        elif kind == "pause":
            scheduler.pause(first)
        elif kind == "resume":
            scheduler.resume(first)
    for request_id in alive:
        scheduler.resume(request_id)
    for _ in range(1000):
        send_all()
        if not line.in_flight:
            break
        answer(_WORD)
    assert alive == set()
    assert (scheduler.n_running, scheduler.n_waiting, scheduler.n_in_flight) == (0, 0, 0)
    # Slots that are free are those nothing is said of; the others' samplers go with the next frame, if one comes.
    assert set(line.requests) == set(scheduler._frames.ended_slots)
