# SPDX-License-Identifier: MIT
"""Tests of protos/contract.py: names, limits, and what gRPC makes of our options."""

from collections.abc import AsyncIterator

import grpc
import pytest

from protos.caravan.v1 import frame_pb2, frame_pb2_grpc
from protos.contract import (
    FRAME_LIMIT_MIN_BYTES,
    channel_options,
    frame_limit_bytes,
    is_session_id,
    is_worker_name,
)


@pytest.mark.parametrize("name", ["w", "mira-cuda0", "7", "A_b-c", "x" * 63])
def test_a_name_of_letters_digits_dashes_may_name_a_worker(name: str) -> None:
    assert is_worker_name(name)


@pytest.mark.parametrize("name", ["", "-a", "_a", "a.b", "a b", "a\n", "ä", "٣", "x" * 64, "a/b"])
def test_another_name_may_not(name: str) -> None:
    assert not is_worker_name(name)


@pytest.mark.parametrize(("session_id", "allowed"), [("a", True), ("_-9Z" * 16, True), ("", False)])
def test_a_session_id_is_short_and_plain(session_id: str, allowed: bool) -> None:
    assert is_session_id(session_id) is allowed
    assert not is_session_id(session_id + "\n")
    assert not is_session_id(session_id + "x" * 65)


def test_a_frame_limit_holds_sixteen_hidden_states_of_a_whole_batch() -> None:
    n_batch, n_embd = 2048, 4096
    state = frame_pb2.Tensor(key="l_out-31", shape=[n_embd, n_batch], data=bytes(4 * n_batch * n_embd))
    tokens = [(1 << 31) - 1] * n_batch
    frame = frame_pb2.Frame(tokens=tokens, positions=tokens, seq_ids=tokens, crossing=[state] * 2)
    one_state_bytes = frame_pb2.FeedRequest(frame=frame).ByteSize() // 2
    assert 16 * one_state_bytes < frame_limit_bytes(n_batch, n_embd) < 18 * one_state_bytes


def test_a_frame_limit_is_never_small_and_never_beyond_what_a_message_can_be() -> None:
    assert frame_limit_bytes(1, 1) == FRAME_LIMIT_MIN_BYTES
    assert frame_limit_bytes(8192, 16384) == (1 << 31) - 1


@pytest.mark.parametrize(("n_batch", "n_embd"), [(0, 1), (1, 0), (-1, 4096), (1 << 20, 1 << 14)])
def test_a_shape_that_no_frame_can_have_is_refused(n_batch: int, n_embd: int) -> None:
    with pytest.raises(ValueError, match="frame"):
        frame_limit_bytes(n_batch, n_embd)


class _Counting(frame_pb2_grpc.LineServiceServicer):
    """Answers Feed with the count of its frames; has no results."""

    async def Feed(
        self,
        request_iterator: AsyncIterator[frame_pb2.FeedRequest],
        context: grpc.aio.ServicerContext[frame_pb2.FeedRequest, frame_pb2.FeedResponse],
    ) -> frame_pb2.FeedResponse:
        return frame_pb2.FeedResponse(n_frames=len([request async for request in request_iterator]))

    async def Collect(
        self,
        request: frame_pb2.CollectRequest,
        context: grpc.aio.ServicerContext[frame_pb2.CollectRequest, frame_pb2.CollectResponse],
    ) -> AsyncIterator[frame_pb2.CollectResponse]:
        return
        yield

    async def Return(
        self,
        request_iterator: AsyncIterator[frame_pb2.ReturnRequest],
        context: grpc.aio.ServicerContext[frame_pb2.ReturnRequest, frame_pb2.ReturnResponse],
    ) -> frame_pb2.ReturnResponse:
        return frame_pb2.ReturnResponse()


async def test_a_frame_up_to_the_limit_passes_and_a_larger_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Port 9 answers nobody: with this proxy in use nothing would arrive.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = grpc.aio.server(options=channel_options(frame_limit_bytes(1, 1)))
    frame_pb2_grpc.add_LineServiceServicer_to_server(_Counting(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def feed(n_bytes: int) -> int:
        async def frames() -> AsyncIterator[frame_pb2.FeedRequest]:
            tensor = frame_pb2.Tensor(data=bytes(n_bytes))
            yield frame_pb2.FeedRequest(frame=frame_pb2.Frame(crossing=[tensor]))

        options = channel_options(2 * FRAME_LIMIT_MIN_BYTES)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            response = await frame_pb2_grpc.LineServiceStub(channel).Feed(frames())
            return response.n_frames

    try:
        assert await feed(FRAME_LIMIT_MIN_BYTES - 100) == 1
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await feed(FRAME_LIMIT_MIN_BYTES + 100)
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    finally:
        await server.stop(None)


async def test_two_servers_cannot_share_a_port() -> None:
    first = grpc.aio.server(options=channel_options())
    port = first.add_insecure_port("127.0.0.1:0")
    await first.start()
    try:
        with pytest.raises(RuntimeError, match="bind"):
            grpc.aio.server(options=channel_options()).add_insecure_port(f"127.0.0.1:{port}")
    finally:
        await first.stop(None)
