# SPDX-License-Identifier: MIT
"""The one place where a failed gRPC call becomes one of our errors. Pure; used by `control` and `line`, which are the
only other modules that know gRPC.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import grpc

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
    WorkerSilentError,
)
from native import LayerRange
from protos.caravan.v1 import error_pb2
from protos.failures import code_of_bare_status, detail_from_metadata

Metadata = Iterable[tuple[str, str | bytes]]

_PLAIN_ERRORS: dict[int, type[CaravanError]] = {
    error_pb2.ERROR_CODE_FILE_NOT_FOUND: ModelNotFoundError,
    error_pb2.ERROR_CODE_BAD_FILE: ModelError,
    error_pb2.ERROR_CODE_IDENTITY_MISMATCH: ModelError,
    error_pb2.ERROR_CODE_UNSUPPORTED_MODEL: UnsupportedModelError,
    error_pb2.ERROR_CODE_INVALID_ARGUMENT: PlanError,
    error_pb2.ERROR_CODE_CANCELLED: CancelledError,
}

_WORKER_ERRORS: dict[int, type[WorkerError]] = {
    error_pb2.ERROR_CODE_BUSY: WorkerBusyError,
    error_pb2.ERROR_CODE_NO_SUCH_SESSION: SessionLostError,
    error_pb2.ERROR_CODE_WRONG_EPOCH: SessionLostError,
    error_pb2.ERROR_CODE_BAD_FRAME: FrameRefusedError,
    error_pb2.ERROR_CODE_CROSSING: EngineError,
    error_pb2.ERROR_CODE_ENGINE: EngineError,
    error_pb2.ERROR_CODE_NEIGHBOUR_LOST: WorkerLostError,
    error_pb2.ERROR_CODE_DISK_FULL: WeightsError,
    error_pb2.ERROR_CODE_NO_SOURCE: WeightsError,
    error_pb2.ERROR_CODE_UNSPECIFIED: EngineError,
}


@dataclass(frozen=True, slots=True)
class Callee:
    """Whom a call went to.

    Attributes:
        name: The worker's name; its address where the name is not known yet.
        layers: Its layer range in the session, if it has one.
    """

    name: str
    address: str
    layers: LayerRange | None = None

    @property
    def place(self) -> str:
        """Name and address for a sentence."""
        return self.address if self.name == self.address else f"{self.name} at {self.address}"


def error_of_call(error: grpc.RpcError, callee: Callee) -> CaravanError:
    """What a failed call to `callee` means."""
    metadata = cast("Metadata | None", error.trailing_metadata())
    return error_of_status(error.code(), error.details() or "", metadata, callee)


def error_of_status(status: grpc.StatusCode, text: str, metadata: Metadata | None, callee: Callee) -> CaravanError:
    """What a call to `callee` means that ended with this status (not OK), details and trailing metadata."""
    detail = detail_from_metadata(metadata)
    if detail is None:
        return _bare(status, text, callee)
    return _detailed(detail, callee)


def _detailed(detail: error_pb2.ErrorDetail, callee: Callee) -> CaravanError:
    """An error that a worker of ours described."""
    worker = detail.worker or callee.name
    message = detail.message or f"{callee.place} gave no reason"
    if detail.code in _PLAIN_ERRORS:
        return _PLAIN_ERRORS[detail.code](f"{worker}: {message}")
    if detail.code == error_pb2.ERROR_CODE_OUT_OF_MEMORY:
        return DoesNotFitError(
            f"{worker}: {message}", needed_bytes=detail.needed_bytes, available_bytes=detail.free_bytes
        )
    return _WORKER_ERRORS.get(detail.code, EngineError)(
        f"{worker}: {message}",
        worker=worker,
        layers=_layers(detail) or (callee.layers if worker == callee.name else None),
        retry_safe=detail.retry_safe,
        seq_id=detail.seq_id if detail.HasField("seq_id") else None,
    )


def _bare(status: grpc.StatusCode, text: str, callee: Callee) -> CaravanError:
    """An error where only gRPC spoke."""
    reason = text.partition("\n")[0] or status.name
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return VersionMismatchError(
            f"what answers at {callee.address} is no worker that this version can talk to ({reason}): "
            f"check the address, and install the same llama-caravan on both sides"
        )
    code = code_of_bare_status(status)
    if code == error_pb2.ERROR_CODE_CANCELLED:
        return CancelledError(f"a call to worker {callee.place} was cancelled")
    if code == error_pb2.ERROR_CODE_NEIGHBOUR_LOST:
        return _stranger(callee, reason) or lost(callee, reason)
    return EngineError(
        f"worker {callee.place} answered {status.name}: {reason}", worker=callee.name, layers=callee.layers
    )


def _stranger(callee: Callee, reason: str) -> WorkerLostError | None:
    """The error for whoever is no member of our cluster, or does not take us for one; None: it is something else."""
    if "WRONG_VERSION_NUMBER" in reason:
        what = "speaks no TLS, so it is a member of no cluster, or has not been started again since it is"
    elif "CERTIFICATE_VERIFY_FAILED" in reason and ("expired" in reason or "not yet valid" in reason):
        what = "has a certificate of another day: set the clocks of both computers right"
    elif "handshake failed" in reason:
        what = "is not of this computer's cluster: join it there with `caravan cluster join`"
    elif reason.startswith("failed to connect") and reason.endswith("Socket closed"):
        what = "hung up at once, as those do who are in another cluster than this computer, or whose clock is wrong"
    else:
        return None
    return WorkerLostError(
        f"what answers at {callee.address} {what}", worker=callee.name, layers=callee.layers, retry_safe=True
    )


def forgotten(callee: Callee) -> SessionLostError:
    """The error for a worker that has the session no more."""
    return SessionLostError(
        f"worker {callee.place} holds its part of the line no more: it was restarted, or told to let go of it",
        worker=callee.name,
        layers=callee.layers,
        retry_safe=True,
    )


def silent(callee: Callee, waited_s: float) -> WorkerSilentError:
    """The error for a worker that has answered nothing for so long."""
    error = lost(callee, f"it was silent for {waited_s:g} s", WorkerSilentError)
    assert isinstance(error, WorkerSilentError)
    return error


def lost(callee: Callee, reason: str = "", kind: type[WorkerLostError] = WorkerLostError) -> WorkerLostError:
    """The error for a worker that does not answer."""
    because = f" ({reason})" if reason else ""
    return kind(
        f"worker {callee.place} does not answer{because}: check that it runs and that the network lets it through",
        worker=callee.name,
        layers=callee.layers,
        retry_safe=True,
    )


def _layers(detail: error_pb2.ErrorDetail) -> LayerRange | None:
    if detail.layer_start < detail.layer_end:
        return LayerRange(detail.layer_start, detail.layer_end)
    return None
