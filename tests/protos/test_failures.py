# SPDX-License-Identifier: MIT
"""Tests of protos/failures.py: the table is total both ways, and a detail arrives through a real call."""

from collections.abc import AsyncIterator

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.caravan.v1 import error_pb2, frame_pb2, frame_pb2_grpc
from protos.contract import ERROR_METADATA_KEY, channel_options
from protos.failures import (
    MAX_MESSAGE_BYTES,
    code_of_bare_status,
    detail_from_call,
    detail_from_metadata,
    detail_to_metadata,
    status_of,
)


@pytest.mark.parametrize("code", error_pb2.ErrorCode.values())
def test_every_code_has_a_status_that_is_a_failure(code: error_pb2.ErrorCode) -> None:
    status = status_of(code)
    assert status is not grpc.StatusCode.OK
    assert (status is grpc.StatusCode.UNKNOWN) == (code == error_pb2.ERROR_CODE_UNSPECIFIED)


@pytest.mark.parametrize("status", [s for s in grpc.StatusCode if s is not grpc.StatusCode.OK])
def test_every_failed_status_has_a_code(status: grpc.StatusCode) -> None:
    assert code_of_bare_status(status) in error_pb2.ErrorCode.values()


def test_ok_has_no_code() -> None:
    with pytest.raises(ValueError, match="OK"):
        code_of_bare_status(grpc.StatusCode.OK)


def test_a_code_newer_than_ours_is_unknown() -> None:
    newer = error_pb2.ErrorDetail.FromString(b"\x08\xe7\x07").code
    assert newer == 999
    assert status_of(newer) is grpc.StatusCode.UNKNOWN


def test_a_long_message_is_cut_to_what_a_header_may_hold() -> None:
    detail = error_pb2.ErrorDetail(code=error_pb2.ERROR_CODE_ENGINE, message="ü" * 100_000, worker="w" * 1000)
    ((key, value),) = detail_to_metadata(detail)
    assert key == ERROR_METADATA_KEY
    assert len(value) < MAX_MESSAGE_BYTES + 200
    received = detail_from_metadata([(key, value)])
    assert received is not None
    assert received.code == error_pb2.ERROR_CODE_ENGINE
    assert set(received.message) == {"ü"}
    assert len(detail.message) == 100_000


@given(st.binary(max_size=100))
def test_garbage_in_the_metadata_is_no_detail_or_one(garbage: bytes) -> None:
    detail = detail_from_metadata([("other", "x"), (ERROR_METADATA_KEY, garbage)])
    assert detail is None or isinstance(detail, error_pb2.ErrorDetail)


def test_no_metadata_is_no_detail() -> None:
    assert detail_from_metadata(None) is None
    assert detail_from_metadata([(ERROR_METADATA_KEY, "text, not bytes")]) is None


_OUT_OF_MEMORY = error_pb2.ErrorDetail(
    code=error_pb2.ERROR_CODE_OUT_OF_MEMORY,
    message="worker-1 needs 9 GB, 5 GB are free",
    worker="worker-1",
    seq_id=0,
    needed_bytes=9 << 30,
    free_bytes=5 << 30,
)


class _Failing(frame_pb2_grpc.LineServiceServicer):
    """Fails Collect with a detail after one result, and Feed by an error that nobody caught."""

    async def Collect(
        self,
        request: frame_pb2.CollectRequest,
        context: grpc.aio.ServicerContext[frame_pb2.CollectRequest, frame_pb2.CollectResponse],
    ) -> AsyncIterator[frame_pb2.CollectResponse]:
        yield frame_pb2.CollectResponse(result=frame_pb2.Result(frame_number=1))
        await context.abort(status_of(_OUT_OF_MEMORY.code), _OUT_OF_MEMORY.message, detail_to_metadata(_OUT_OF_MEMORY))

    async def Feed(
        self,
        request_iterator: AsyncIterator[frame_pb2.FeedRequest],
        context: grpc.aio.ServicerContext[frame_pb2.FeedRequest, frame_pb2.FeedResponse],
    ) -> frame_pb2.FeedResponse:
        raise RuntimeError("nobody caught this")

    async def Return(
        self,
        request_iterator: AsyncIterator[frame_pb2.ReturnRequest],
        context: grpc.aio.ServicerContext[frame_pb2.ReturnRequest, frame_pb2.ReturnResponse],
    ) -> frame_pb2.ReturnResponse:
        return frame_pb2.ReturnResponse()


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a real server on loopback that fails as _Failing does."""
    server = grpc.aio.server(options=channel_options())
    frame_pb2_grpc.add_LineServiceServicer_to_server(_Failing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options()) as channel:
        yield channel
    await server.stop(None)


async def test_a_detail_arrives_with_the_call_that_failed(channel: grpc.aio.Channel) -> None:
    call = frame_pb2_grpc.LineServiceStub(channel).Collect(frame_pb2.CollectRequest())
    results = aiter(call)
    assert (await anext(results)).result.frame_number == 1
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await anext(results)
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail_from_call(failed.value) == _OUT_OF_MEMORY


async def test_a_failure_of_no_worker_of_ours_has_no_detail(channel: grpc.aio.Channel) -> None:
    async def no_frames() -> AsyncIterator[frame_pb2.FeedRequest]:
        return
        yield

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await frame_pb2_grpc.LineServiceStub(channel).Feed(no_frames())
    assert detail_from_call(failed.value) is None
