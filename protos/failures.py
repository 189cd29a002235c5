# SPDX-License-Identifier: MIT
"""The one table between ErrorCode and gRPC's statuses, and how an ErrorDetail rides on a failed call.

The worker turns its errors into a status and trailing metadata with it, the coordinator (and the worker
before) reads them back. Pure; called on whatever loop holds the call. A detail comes from the network:
garbage is no detail.
"""

from collections.abc import Iterable
from typing import cast

import grpc
from google.protobuf.message import DecodeError

from protos.caravan.v1 import error_pb2
from protos.contract import ERROR_METADATA_KEY

# gRPC refuses headers beyond 8 KiB by default; a sentence needs far less.
MAX_MESSAGE_BYTES = 2048
_MAX_WORKER_CHARACTERS = 64
# Of the same sentence in the status itself, where a byte that is no ASCII takes three.
_MAX_STATUS_BYTES = 512

_STATUS_OF_CODE: dict[error_pb2.ErrorCode, grpc.StatusCode] = {
    error_pb2.ERROR_CODE_UNSPECIFIED: grpc.StatusCode.UNKNOWN,
    error_pb2.ERROR_CODE_FILE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    error_pb2.ERROR_CODE_BAD_FILE: grpc.StatusCode.INVALID_ARGUMENT,
    error_pb2.ERROR_CODE_IDENTITY_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    error_pb2.ERROR_CODE_UNSUPPORTED_MODEL: grpc.StatusCode.UNIMPLEMENTED,
    error_pb2.ERROR_CODE_OUT_OF_MEMORY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    error_pb2.ERROR_CODE_BUSY: grpc.StatusCode.ABORTED,
    error_pb2.ERROR_CODE_NO_SUCH_SESSION: grpc.StatusCode.NOT_FOUND,
    error_pb2.ERROR_CODE_WRONG_EPOCH: grpc.StatusCode.FAILED_PRECONDITION,
    error_pb2.ERROR_CODE_BAD_FRAME: grpc.StatusCode.INVALID_ARGUMENT,
    error_pb2.ERROR_CODE_CROSSING: grpc.StatusCode.DATA_LOSS,
    error_pb2.ERROR_CODE_ENGINE: grpc.StatusCode.INTERNAL,
    error_pb2.ERROR_CODE_NEIGHBOUR_LOST: grpc.StatusCode.UNAVAILABLE,
    error_pb2.ERROR_CODE_CANCELLED: grpc.StatusCode.CANCELLED,
    error_pb2.ERROR_CODE_INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    error_pb2.ERROR_CODE_DISK_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    error_pb2.ERROR_CODE_NO_SOURCE: grpc.StatusCode.UNAVAILABLE,
}

# For statuses that gRPC itself raised, without a detail of ours. A code that would claim more than the status
# says is not given: NOT_FOUND without a detail, say, did not come from a worker of ours.
_CODE_OF_BARE_STATUS: dict[grpc.StatusCode, error_pb2.ErrorCode] = {
    grpc.StatusCode.CANCELLED: error_pb2.ERROR_CODE_CANCELLED,
    grpc.StatusCode.UNKNOWN: error_pb2.ERROR_CODE_UNSPECIFIED,
    grpc.StatusCode.INVALID_ARGUMENT: error_pb2.ERROR_CODE_INVALID_ARGUMENT,
    # Nothing came back in time: for the caller that worker is gone.
    grpc.StatusCode.DEADLINE_EXCEEDED: error_pb2.ERROR_CODE_NEIGHBOUR_LOST,
    grpc.StatusCode.NOT_FOUND: error_pb2.ERROR_CODE_UNSPECIFIED,
    grpc.StatusCode.ALREADY_EXISTS: error_pb2.ERROR_CODE_UNSPECIFIED,
    grpc.StatusCode.PERMISSION_DENIED: error_pb2.ERROR_CODE_UNSPECIFIED,
    # gRPC's own answer to a message beyond the limit.
    grpc.StatusCode.RESOURCE_EXHAUSTED: error_pb2.ERROR_CODE_BAD_FRAME,
    grpc.StatusCode.FAILED_PRECONDITION: error_pb2.ERROR_CODE_UNSPECIFIED,
    grpc.StatusCode.ABORTED: error_pb2.ERROR_CODE_UNSPECIFIED,
    grpc.StatusCode.OUT_OF_RANGE: error_pb2.ERROR_CODE_INVALID_ARGUMENT,
    # Another contract than ours, or no worker at all.
    grpc.StatusCode.UNIMPLEMENTED: error_pb2.ERROR_CODE_UNSPECIFIED,
    # gRPC's own answer when a stream is torn down in the middle.
    grpc.StatusCode.INTERNAL: error_pb2.ERROR_CODE_NEIGHBOUR_LOST,
    grpc.StatusCode.UNAVAILABLE: error_pb2.ERROR_CODE_NEIGHBOUR_LOST,
    grpc.StatusCode.DATA_LOSS: error_pb2.ERROR_CODE_UNSPECIFIED,
    grpc.StatusCode.UNAUTHENTICATED: error_pb2.ERROR_CODE_UNSPECIFIED,
}


def status_of(code: error_pb2.ErrorCode) -> grpc.StatusCode:
    """The status a call fails with for this code; UNKNOWN for a code newer than ours."""
    return _STATUS_OF_CODE.get(code, grpc.StatusCode.UNKNOWN)


def code_of_bare_status(status: grpc.StatusCode) -> error_pb2.ErrorCode:
    """The code that fits a failed call without a detail, where only gRPC spoke.

    Raises:
        ValueError: the status is OK, which is no failure.
    """
    if status is grpc.StatusCode.OK:
        raise ValueError("a call that ended with OK has no error code")
    return _CODE_OF_BARE_STATUS[status]


def detail_to_metadata(detail: error_pb2.ErrorDetail) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata that carries `detail`; a message beyond MAX_MESSAGE_BYTES is cut."""
    if len(detail.message.encode()) > MAX_MESSAGE_BYTES or len(detail.worker) > _MAX_WORKER_CHARACTERS:
        short = error_pb2.ErrorDetail()
        short.CopyFrom(detail)
        short.message = _cut(detail.message, MAX_MESSAGE_BYTES)
        short.worker = detail.worker[:_MAX_WORKER_CHARACTERS]
        detail = short
    return ((ERROR_METADATA_KEY, detail.SerializeToString()),)


def status_text(detail: error_pb2.ErrorDetail) -> str:
    """What a call's status says beside it: the message, or its beginning."""
    return _cut(detail.message, _MAX_STATUS_BYTES)


def _cut(text: str, n_bytes: int) -> str:
    return text.encode()[:n_bytes].decode(errors="ignore")


def detail_from_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> error_pb2.ErrorDetail | None:
    """The detail among a call's trailing metadata; None if there is none that can be read."""
    for key, value in metadata or ():
        if key == ERROR_METADATA_KEY and isinstance(value, bytes):
            try:
                return error_pb2.ErrorDetail.FromString(value)
            except DecodeError:
                return None
    return None


def detail_from_call(error: grpc.RpcError | grpc.Call) -> error_pb2.ErrorDetail | None:
    """The detail that a worker of ours sent with a failed call; None if there is none, or it is garbage."""
    # Pairs, or None; the type stubs know less of it.
    metadata = cast("Iterable[tuple[str, str | bytes]] | None", error.trailing_metadata())
    return detail_from_metadata(metadata)
