# SPDX-License-Identifier: MIT
"""What is embedded goes down the line as prompts do: together where the model allows it, one after another without
waiting where it does not, by turns with what else there is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.embeddings import Finish
from coordinator.errors import InvalidRequestError, OverloadedError
from coordinator.frames import EmbeddingRequest, Outcome, PlannedFrame, Remove, Request, SampledRow
from coordinator.generation import FinishReason
from coordinator.pace import Pace
from coordinator.scheduler import Scheduler
from coordinator.sequence import EmbeddingLimits, Limits
from native import Pooling, SamplingParams, normalised

_ENCODER = EmbeddingLimits(Pooling.MEAN, n_frame=16, n_input=16, is_stateless=True)
_CHAT = EmbeddingLimits(Pooling.LAST, n_frame=16, n_input=64)


def test_inputs_of_several_requests_go_together_by_turns() -> None:
    scheduler = _scheduler(_ENCODER)
    scheduler.submit_embedding(_request(1, 5, 5, 5))
    scheduler.submit_embedding(_request(2, 3, 3))
    frame = _next(scheduler)
    assert frame.is_embedding
    assert frame.seq_ids == [0] * 5 + [1] * 3 + [2] * 5 + [3] * 3
    assert frame.positions == [*range(5), *range(3), *range(5), *range(3)]
    assert frame.outputs == [4, 7, 12, 15]
    last = _next(scheduler)  # without waiting for the first
    assert last.outputs == [4]
    assert _ended(_answer(scheduler, frame)) == {2}
    assert _ended(_answer(scheduler, last)) == {1}
    assert scheduler.n_running == 0


def test_inputs_of_a_model_with_a_cache_follow_each_other_in_one_slot() -> None:
    scheduler = _scheduler(_CHAT)
    scheduler.submit_embedding(_request(1, 5, 20, 4))
    frames = [_next(scheduler) for _ in range(4)]
    assert [len(frame.tokens) for frame in frames] == [5, 16, 4, 4]  # cut as llama.cpp cuts it
    assert frames[2].positions == [16, 17, 18, 19]
    assert [frame.outputs for frame in frames] == [[4], [], [3], [3]]
    assert [frame.operations for frame in frames] == [[], [Remove(0)], [], [Remove(0)]]
    outcomes = [_answer(scheduler, frame) for frame in frames]
    assert [[each.embedded.index for each in some if each.embedded] for some in outcomes] == [[0], [], [1], [2]]
    assert outcomes[-1][0].finish is FinishReason.STOP
    scheduler.submit(Request(2, (1, 2), 3, SamplingParams()))
    assert _next(scheduler).operations == [Remove(0)]  # what the last input left


def test_a_vector_for_each_token_comes_in_pieces() -> None:
    scheduler = _scheduler(EmbeddingLimits(Pooling.NONE, n_frame=16, n_input=64))
    scheduler.submit_embedding(_request(1, 20))
    first, second = _next(scheduler), _next(scheduler)
    assert not _answer(scheduler, first)
    (outcome,) = _answer(scheduler, second)
    assert outcome.embedded is not None
    assert outcome.embedded.vector == b"".join(map(_vector, [*first.tokens, *second.tokens]))


def test_prompts_and_inputs_take_turns_and_decoding_goes_on() -> None:
    scheduler = _scheduler(_CHAT)
    scheduler.submit(Request(1, (1, 2), 50, SamplingParams()))
    _answer(scheduler, _next(scheduler))
    scheduler.submit(Request(2, tuple(range(2, 50)), 5, SamplingParams()))
    scheduler.submit_embedding(_request(3, *[16] * 8))
    kinds: list[str] = []
    while kinds.count("input") < 4:
        frame = _next(scheduler)
        kinds.append("decode" if frame.is_decode else "input" if frame.is_embedding else "prompt")
        _answer(scheduler, frame)
    n_prompts = kinds.count("prompt")
    assert 3 <= n_prompts <= 5
    # An input is four of the smallest chunks, and costs those who decode no more than these would.
    assert kinds.count("decode") >= n_prompts + 3 * 4


def test_what_has_no_vector_is_sent_again_on_the_next_line() -> None:
    for limits in (_ENCODER, _CHAT):
        scheduler = _scheduler(limits)
        scheduler.submit_embedding(_request(1, 16, 16, 16))
        first, _lost = _next(scheduler), _next(scheduler)
        assert len(_answer(scheduler, first)) == 1
        assert scheduler.under_way() == [1]
        scheduler.restart(scheduler.limits, Pace(2))
        second, third = _next(scheduler), _next(scheduler)
        assert (second.number, second.operations) == (1, [])
        (before,), (after,) = _answer(scheduler, second), _answer(scheduler, third)
        assert before.embedded is not None
        assert after.embedded is not None
        assert (before.embedded.index, after.embedded.index, after.finish) == (1, 2, FinishReason.STOP)


def test_one_that_may_break_lines_is_told_from_the_others() -> None:
    scheduler = _scheduler(_ENCODER)
    scheduler.submit_embedding(_request(1, 2, 2))
    scheduler.submit_embedding(_request(2, 2, 2))
    scheduler.restart(scheduler.limits, Pace(2), one_by_one=True)
    frame = _next(scheduler)
    assert len(frame.outputs) == 1
    assert scheduler.next_frame() is None


def test_a_request_that_is_called_off_leaves_nothing() -> None:
    scheduler = _scheduler(_CHAT, n_slots=1, n_waiting=1)
    scheduler.submit_embedding(_request(1, 16, 16))
    frame = _next(scheduler)
    scheduler.submit_embedding(_request(2, 4))
    with pytest.raises(OverloadedError):
        scheduler.submit_embedding(_request(3, 4))
    assert scheduler.end(1)
    assert not _answer(scheduler, frame)
    last = _next(scheduler)
    assert last.operations == [Remove(0)]
    assert _ended(_answer(scheduler, last)) == {2}
    assert scheduler.next_frame() is None
    assert (scheduler.n_running, scheduler.n_waiting) == (0, 0)


def test_a_stage_that_makes_none_fails_the_request_once() -> None:
    scheduler = _scheduler(_ENCODER)
    scheduler.submit_embedding(_request(1, 2, 2))
    frame = _next(scheduler)
    outcomes = scheduler.result(frame.number, [SampledRow(0, None, error="broken"), SampledRow(1, None)])
    assert outcomes[0].failed == "broken"
    assert scheduler.n_running == 0


@pytest.mark.parametrize("norm", [-1, 0, 1, 2, 3])
def test_vectors_are_normalised_as_llama_cpp_does_it(norm: int) -> None:
    vector = np.random.default_rng(norm + 1).standard_normal(257, dtype=np.float32)
    assert np.array_equal(normalised(vector, norm), _common_embd_normalize(vector, norm))
    assert not normalised(np.zeros(3, np.float32), norm).any()


def test_fewer_dimensions_are_cut_before_they_are_normalised() -> None:
    raw = np.array([3, 4, 12], np.float32).tobytes()
    assert Finish(Pooling.LAST, n_dimensions=2)(raw, 5).tolist() == [np.float32(0.6), np.float32(0.8)]
    with pytest.raises(InvalidRequestError, match="3 dimensions, not 4"):
        Finish(Pooling.LAST, n_dimensions=4)(raw, 5)


def _common_embd_normalize(vector: NDArray[np.float32], norm: int) -> NDArray[np.float32]:
    """llama.cpp's function, line by line."""
    total = 0.0
    if norm == -1:
        total = 1.0
    elif norm == 0:
        total = max(float(abs(number)) for number in vector) / 32760.0
    elif norm == 2:
        for number in vector:
            total += float(number * number)
        total = total**0.5
    else:
        for number in vector:
            total += float(abs(number)) ** norm
        total = total ** (1.0 / norm)
    return np.array([number * np.float32(1.0 / total) for number in vector], np.float32)


def _scheduler(embedding: EmbeddingLimits, n_slots: int = 4, n_waiting: int = 8) -> Scheduler:
    limits = Limits(n_slots, n_batch=16, n_ctx=64, n_stages=2, n_waiting=n_waiting, embedding=embedding)
    return Scheduler(limits, [0])


def _request(number: int, *lengths: int) -> EmbeddingRequest:
    return EmbeddingRequest(number, tuple(tuple(range(1, length + 1)) for length in lengths))


def _next(scheduler: Scheduler) -> PlannedFrame:
    frame = scheduler.next_frame()
    assert frame is not None
    return frame


def _vector(token: int) -> bytes:
    return np.float32(token).tobytes()


def _answer(scheduler: Scheduler, frame: PlannedFrame) -> list[Outcome]:
    rows = [
        SampledRow(frame.seq_ids[row], None, embedding=_vector(frame.tokens[row]))
        if frame.is_embedding
        else SampledRow(frame.seq_ids[row], 7)
        for row in frame.outputs
    ]
    return scheduler.result(frame.number, rows)


def _ended(outcomes: Sequence[Outcome]) -> set[int]:
    return {outcome.request_id for outcome in outcomes if outcome.finish is not None}
