# SPDX-License-Identifier: MIT
"""Failed calls become errors: every gRPC status and every code of ours, and none is forgotten."""

import grpc
import pytest

from coordinator.errors import (
    CancelledError,
    CaravanError,
    DoesNotFitError,
    EngineError,
    FrameRefusedError,
    ModelError,
    ModelNotFoundError,
    PlanError,
    SessionLostError,
    UnsupportedModelError,
    VersionMismatchError,
    WeightsError,
    WorkerBusyError,
    WorkerError,
    WorkerLostError,
)
from coordinator.statuses import Callee, error_of_status
from native import LayerRange
from protos.caravan.v1 import error_pb2
from protos.failures import detail_to_metadata, status_of

_CALLEE = Callee("attic", "10.0.0.2:9000", LayerRange(4, 8))

_BARE: dict[grpc.StatusCode, type[CaravanError]] = {
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.UNKNOWN: EngineError,
    grpc.StatusCode.INVALID_ARGUMENT: EngineError,
    grpc.StatusCode.DEADLINE_EXCEEDED: WorkerLostError,
    grpc.StatusCode.NOT_FOUND: EngineError,
    grpc.StatusCode.ALREADY_EXISTS: EngineError,
    grpc.StatusCode.PERMISSION_DENIED: EngineError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: EngineError,
    grpc.StatusCode.FAILED_PRECONDITION: EngineError,
    grpc.StatusCode.ABORTED: EngineError,
    grpc.StatusCode.OUT_OF_RANGE: EngineError,
    grpc.StatusCode.UNIMPLEMENTED: VersionMismatchError,
    grpc.StatusCode.INTERNAL: WorkerLostError,
    grpc.StatusCode.UNAVAILABLE: WorkerLostError,
    grpc.StatusCode.DATA_LOSS: EngineError,
    grpc.StatusCode.UNAUTHENTICATED: EngineError,
}

_DETAILED: dict[str, type[CaravanError]] = {
    "ERROR_CODE_UNSPECIFIED": EngineError,
    "ERROR_CODE_FILE_NOT_FOUND": ModelNotFoundError,
    "ERROR_CODE_BAD_FILE": ModelError,
    "ERROR_CODE_IDENTITY_MISMATCH": ModelError,
    "ERROR_CODE_UNSUPPORTED_MODEL": UnsupportedModelError,
    "ERROR_CODE_OUT_OF_MEMORY": DoesNotFitError,
    "ERROR_CODE_BUSY": WorkerBusyError,
    "ERROR_CODE_NO_SUCH_SESSION": SessionLostError,
    "ERROR_CODE_WRONG_EPOCH": SessionLostError,
    "ERROR_CODE_BAD_FRAME": FrameRefusedError,
    "ERROR_CODE_CROSSING": EngineError,
    "ERROR_CODE_ENGINE": EngineError,
    "ERROR_CODE_NEIGHBOUR_LOST": WorkerLostError,
    "ERROR_CODE_CANCELLED": CancelledError,
    "ERROR_CODE_INVALID_ARGUMENT": PlanError,
    "ERROR_CODE_DISK_FULL": WeightsError,
    "ERROR_CODE_NO_SOURCE": WeightsError,
}


def _error_of_detail(detail: error_pb2.ErrorDetail) -> CaravanError:
    return error_of_status(status_of(detail.code), "", detail_to_metadata(detail), _CALLEE)


@pytest.mark.parametrize("status", [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK])
def test_every_status_that_grpc_gives_alone_has_its_error(status: grpc.StatusCode) -> None:
    error = error_of_status(status, "said so", None, _CALLEE)
    assert type(error) is _BARE[status]
    if isinstance(error, WorkerError):
        assert (error.worker, error.layers) == ("attic", LayerRange(4, 8))
        assert "attic at 10.0.0.2:9000" in error.message


@pytest.mark.parametrize("code", error_pb2.ErrorCode.keys())
def test_every_code_of_ours_has_its_error(code: str) -> None:
    detail = error_pb2.ErrorDetail(code=code, message="what happened", worker="attic")
    error = _error_of_detail(detail)
    assert type(error) is _DETAILED[code]
    assert error.message == "attic: what happened"


def test_the_worker_that_a_detail_names_is_the_culprit_not_the_one_that_was_called() -> None:
    detail = error_pb2.ErrorDetail(
        code=error_pb2.ERROR_CODE_ENGINE,
        message="llama.cpp failed",
        worker="cellar",
        layer_start=8,
        layer_end=12,
        seq_id=3,
        retry_safe=True,
    )
    error = _error_of_detail(detail)
    assert isinstance(error, EngineError)
    assert (error.worker, error.layers, error.seq_id, error.retry_safe) == ("cellar", LayerRange(8, 12), 3, True)


def test_too_little_memory_keeps_its_numbers() -> None:
    detail = error_pb2.ErrorDetail(
        code=error_pb2.ERROR_CODE_OUT_OF_MEMORY, message="no", needed_bytes=300, free_bytes=200
    )
    error = _error_of_detail(detail)
    assert isinstance(error, DoesNotFitError)
    assert (error.needed_bytes, error.available_bytes) == (300, 200)


def test_a_code_from_a_newer_worker_is_still_an_error_with_its_words() -> None:
    detail = error_pb2.ErrorDetail(message="something new", worker="attic")
    detail.code = 99  # type: ignore[assignment]
    error = _error_of_detail(detail)
    assert isinstance(error, EngineError)
    assert "something new" in error.message


def test_a_detail_that_is_garbage_counts_as_none() -> None:
    error = error_of_status(grpc.StatusCode.UNAVAILABLE, "gone", (("caravan-error-bin", b"\xff\xff\xff"),), _CALLEE)
    assert isinstance(error, WorkerLostError)
    assert error.message.startswith("worker attic at 10.0.0.2:9000 does not answer (gone)")
    assert error.retry_safe


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("failed to connect to all addresses; last error: UNAVAILABLE: ipv4:10.0.0.2:9000: Socket closed", "hung up"),
        ("failed to connect: Tls handshake failed (TSI): BAD_SIGNATURE: signature failure", "not of this computer's"),
        ("failed to connect: Tls handshake failed (TSI): WRONG_VERSION_NUMBER: Invalid", "speaks no TLS"),
        ("failed: handshake failed: CERTIFICATE_VERIFY_FAILED: certificate has expired", "set the clocks"),
        # One that was there, and is gone.
        ("Socket closed", "does not answer"),
        ("failed to connect to all addresses; last error: Connection refused", "does not answer"),
    ],
)
def test_who_is_of_another_cluster_is_told_from_who_is_gone(text: str, sentence: str) -> None:
    error = error_of_status(grpc.StatusCode.UNAVAILABLE, text, None, _CALLEE)
    assert isinstance(error, WorkerLostError)
    assert sentence in str(error)
