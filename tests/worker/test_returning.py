# SPDX-License-Identifier: MIT
"""Frames that follow others: their tokens go straight from the last worker to the first."""

import time

import grpc
import pytest

from protos.caravan.v1 import error_pb2, frame_pb2
from tests.worker.conftest import Lines
from tests.worker.driver import FedStream, failure, greedy_sampler, stream_metadata, want_token
from tests.worker.test_line import PROMPT, generate

_DRAFT = frame_pb2.OutputRow(row=0, sample=True, draft=True)


def _open(lines: Lines, session_id: str, epoch: int = 1) -> FedStream:
    """A line whose way back is open."""
    stream = lines.open(session_id, epoch)
    deadline_s = time.monotonic() + 60
    while not stream.step([], [], []).returns:
        assert time.monotonic() < deadline_s, "the last worker did not reach the first one"
        time.sleep(0.01)
    return stream


def _begin(stream: FedStream, *operations: frame_pb2.SamplerOperation) -> frame_pb2.RowResult:
    """What is sampled after the prompt, by a frame that returns it."""
    wanted = [want_token(len(PROMPT) - 1)]
    positions, seq_ids = list(range(len(PROMPT))), [0] * len(PROMPT)
    return stream.step(PROMPT, positions, seq_ids, wanted, sampler_operations=operations, returns=True).rows[0]


def _follow(stream: FedStream, position: int, *, returns: bool = True) -> None:
    stream.send(stream.frame([0], [position], [0], [_DRAFT], follows=stream.n_fed, returns=returns))


@pytest.mark.parametrize("sampler", [{}, {"temperature": 1.2, "top_k": 50, "seed": 1234}])
def test_tokens_that_went_straight_back_are_those_that_went_by_the_coordinator(
    lines: Lines, sampler: dict[str, object]
) -> None:
    n_tokens = 20
    by_coordinator = lines.open("returned", 1)
    plain = generate(by_coordinator, PROMPT, n_tokens, **sampler)
    by_coordinator.finish()
    stream = _open(lines, "returned", 2)
    tokens = [_begin(stream, greedy_sampler(0, prompt_tokens=PROMPT, **sampler)).sampled.token]
    for number in range(n_tokens - 1):  # all at once: each waits for the one before
        _follow(stream, len(PROMPT) + number, returns=number < n_tokens - 2)
    tokens += [stream.result().rows[0].sampled.token for _ in range(n_tokens - 1)]
    assert tokens == plain
    stream.finish()


def test_a_frame_that_follows_one_without_a_token_samples_nothing_and_the_line_goes_on(lines: Lines) -> None:
    stream = _open(lines, "without")
    assert "no sampler is open" in _begin(stream).error
    _follow(stream, len(PROMPT))
    _follow(stream, len(PROMPT) + 1, returns=False)
    rows = [stream.result().rows[0] for _ in range(2)]
    assert [(row.HasField("sampled"), row.error) for row in rows] == [(False, ""), (False, "")]
    stream.step([], [], [], kv_operations=[frame_pb2.KvOperation(remove=frame_pb2.KvRemove(seq_id=0, start=0, end=-1))])
    assert generate(stream, [7, 8, 9], 2)
    stream.finish()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"follows": 1}, "takes one token, which is a draft"),
        ({"follows": 999, "outputs": [_DRAFT]}, "and a frame before it"),
        ({"follows": -1, "outputs": [_DRAFT]}, ", whose token was not returned"),
        ({"returns": True}, "is to return a token, which takes one output, not 0"),
    ],
)
def test_a_frame_that_cannot_follow_ends_the_feed_with_a_sentence(
    lines: Lines, changes: dict[str, object], complaint: str
) -> None:
    stream = _open(lines, "wrong")
    _begin(stream, greedy_sampler(0))
    if changes.get("follows") == -1:
        # The first one that was returned is gone when a later one is taken.
        begun = stream.n_fed
        _follow(stream, len(PROMPT))
        stream.result()
        changes = changes | {"follows": begun}
    stream.send(stream.frame([5], [len(PROMPT) + 1], [0], **changes))  # type: ignore[arg-type]
    with pytest.raises(grpc.RpcError) as raised:
        stream.feed.result(timeout=60)
    status, detail = failure(raised.value)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert complaint in detail.message


def test_only_one_way_back_is_taken_and_only_where_a_line_begins(lines: Lines) -> None:
    _open(lines, "taken")
    for worker, complaint in ((lines.first, "is open already"), (lines.last, "to the first of several stages")):
        call = worker.line.Return.future(iter(()), metadata=stream_metadata("taken"))
        with pytest.raises(grpc.RpcError) as raised:
            call.result(timeout=60)
        _, detail = failure(raised.value)
        assert detail.code == error_pb2.ERROR_CODE_WRONG_EPOCH
        assert complaint in detail.message
