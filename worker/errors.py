# SPDX-License-Identifier: MIT
"""What can go wrong in a worker, and the one place where errors become an ErrorDetail for the caller.

    WorkerError                     text is one sentence with what to do
    ├── CallError                   ends a gRPC call
    │   ├── ModelNotHereError       no such file on this machine
    │   ├── IdentityMismatchError   another file than the coordinator's
    │   ├── DoesNotFitError         needed and free bytes
    │   ├── LoadUnderWayError       another load, or a benchmark, runs
    │   ├── InUseError              another session is being served, or its stage is in the way
    │   ├── NoSuchSessionError      that session is not loaded here (any more)
    │   ├── WrongEpochError         another epoch, or this epoch's streams are taken or spent
    │   ├── BadRequestError         a control call's argument
    │   ├── BadFrameError           a frame out of order or out of bounds
    │   ├── CrossingDataError       a crossing tensor that contradicts itself
    │   ├── StreamLostError         the caller of Feed or Collect went away
    │   ├── LeavingError            this worker shuts down
    │   └── NeighbourError          the next stage is gone, or failed: carries its own detail
    └── StartError                  ends the process before it served; carries the exit code
        ├── UnknownDeviceNameError  exit 1
        ├── CardsError              exit 1
        ├── NotLoopbackError        exit 1
        ├── BadNameError            exit 1
        ├── EngineMismatchError     exit 3
        ├── PortError               exit 3
        └── NameTakenError          exit 3

llama.cpp's failures arrive as native.NativeError; `detail_of` gives each of them its code. Pure; any thread.
"""

from dataclasses import dataclass
from typing import ClassVar

import native
from native import LayerRange, NativeError
from protos.caravan.v1 import error_pb2


class WorkerError(Exception):
    """Base of everything the worker itself raises on purpose."""


class CallError(WorkerError):
    """Ends a gRPC call with `code`; `retry_safe`: trying again, unchanged, can succeed."""

    # Quoted: to Python 3.10 an enum of protobuf is no type.
    code: ClassVar["error_pb2.ErrorCode"]
    retry_safe: ClassVar[bool] = False


class ModelNotHereError(CallError):
    code = error_pb2.ERROR_CODE_FILE_NOT_FOUND


class IdentityMismatchError(CallError):
    code = error_pb2.ERROR_CODE_IDENTITY_MISMATCH


class DoesNotFitError(CallError):
    code = error_pb2.ERROR_CODE_OUT_OF_MEMORY

    def __init__(self, message: str, *, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class LoadUnderWayError(CallError):
    code = error_pb2.ERROR_CODE_BUSY
    retry_safe = True


class InUseError(CallError):
    code = error_pb2.ERROR_CODE_BUSY
    retry_safe = True


class NoSuchSessionError(CallError):
    code = error_pb2.ERROR_CODE_NO_SUCH_SESSION


class WrongEpochError(CallError):
    code = error_pb2.ERROR_CODE_WRONG_EPOCH


class BadRequestError(CallError):
    code = error_pb2.ERROR_CODE_INVALID_ARGUMENT


class BadFrameError(CallError):
    code = error_pb2.ERROR_CODE_BAD_FRAME


class CrossingDataError(CallError):
    code = error_pb2.ERROR_CODE_CROSSING


class StreamLostError(CallError):
    code = error_pb2.ERROR_CODE_NEIGHBOUR_LOST


class LeavingError(CallError):
    code = error_pb2.ERROR_CODE_NEIGHBOUR_LOST


class NeighbourError(CallError):
    """Ends a Feed because the stages after this one did; `detail` names the stage whose error it is."""

    code = error_pb2.ERROR_CODE_NEIGHBOUR_LOST

    def __init__(self, detail: error_pb2.ErrorDetail) -> None:
        super().__init__(detail.message)
        self.detail = detail


class StartError(WorkerError):
    """The worker cannot start; the process ends with `exit_code` and this sentence."""

    exit_code: ClassVar[int] = 3


class UnknownDeviceNameError(StartError):
    exit_code = 1


class CardsError(StartError):
    """Devices that cannot be one worker's together."""

    exit_code = 1


class NotLoopbackError(StartError):
    exit_code = 1


class BadNameError(StartError):
    exit_code = 1


class EngineMismatchError(StartError):
    exit_code = 3


class PortError(StartError):
    exit_code = 3


class NameTakenError(StartError):
    exit_code = 3


@dataclass(frozen=True, slots=True)
class Culprit:
    """Whose error it is: the worker, and the layers of its stage where there is one."""

    worker: str
    layers: LayerRange | None = None


# The most derived entry that fits wins. What is not listed is ENGINE: llama.cpp reported it.
_CODE_OF_NATIVE: dict[type[NativeError], error_pb2.ErrorCode] = {
    native.ModelFileError: error_pb2.ERROR_CODE_BAD_FILE,
    native.ModelFileNotFoundError: error_pb2.ERROR_CODE_FILE_NOT_FOUND,
    native.UnsupportedModelError: error_pb2.ERROR_CODE_UNSUPPORTED_MODEL,
    native.LoadCancelledError: error_pb2.ERROR_CODE_CANCELLED,
    native.DeviceMemoryError: error_pb2.ERROR_CODE_OUT_OF_MEMORY,
    native.CrossingError: error_pb2.ERROR_CODE_CROSSING,
    native.GrammarError: error_pb2.ERROR_CODE_INVALID_ARGUMENT,
}


def detail_of(error: Exception, culprit: Culprit) -> error_pb2.ErrorDetail:
    """What the caller is told about `error`; anything unforeseen is ENGINE with its own text."""
    if isinstance(error, NeighbourError):
        return error.detail
    detail = error_pb2.ErrorDetail(message=str(error), worker=culprit.worker)
    if culprit.layers is not None:
        detail.layer_start, detail.layer_end = culprit.layers.start, culprit.layers.end
    if isinstance(error, CallError):
        detail.code, detail.retry_safe = error.code, error.retry_safe
    elif isinstance(error, NativeError):
        detail.code = code_of_native(type(error))
    else:
        detail.code = error_pb2.ERROR_CODE_ENGINE
        detail.message = f"unexpected {type(error).__name__}: {error}"
    if isinstance(error, DoesNotFitError | native.DeviceMemoryError):
        detail.needed_bytes, detail.free_bytes = error.needed_bytes, error.free_bytes
    return detail


def code_of_native(kind: type[NativeError]) -> error_pb2.ErrorCode:
    """The code for one of native's errors, by its nearest listed ancestor."""
    for ancestor in kind.__mro__:
        if ancestor in _CODE_OF_NATIVE:
            return _CODE_OF_NATIVE[ancestor]
    return error_pb2.ERROR_CODE_ENGINE
