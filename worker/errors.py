# SPDX-License-Identifier: MIT
"""What can go wrong in a worker.

    WorkerError                     text is one sentence with what to do
    ├── CallError                   ends a gRPC call
    │   ├── ModelNotHereError       no such file on this machine
    │   ├── IdentityMismatchError   another file than the coordinator's
    │   ├── DoesNotFitError         needed and free bytes
    │   ├── DiskFullError           no room for weights: needed and free bytes
    │   ├── StoreUnusableError      the folder for weights cannot be written
    │   ├── ModelGoneError          it was in the store, and made room for another
    │   ├── NoSourceError           a tensor that nobody gives as it should be
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
    ├── WrongBytesError             a tensor that is not what its hash says; whose it is decides what follows
    └── StartError                  ends the process before it served; carries the exit code
        ├── UnknownDeviceNameError  exit 1
        ├── CardsError              exit 1
        ├── NotLoopbackError        exit 1
        ├── IdentityError           exit 1
        ├── BadNameError            exit 1
        ├── EngineMismatchError     exit 3
        ├── PortError               exit 3
        ├── NameTakenError          exit 3
        └── ListingError            exit 3

llama.cpp's failures arrive as native.NativeError. What a caller is told of either is in worker/failures.py. Imported by
the supervisor too, so nothing here loads llama.cpp.
"""

from typing import ClassVar

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


class DiskFullError(CallError):
    code = error_pb2.ERROR_CODE_DISK_FULL

    def __init__(self, message: str, *, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class StoreUnusableError(CallError):
    code = error_pb2.ERROR_CODE_DISK_FULL


class ModelGoneError(CallError):
    code = error_pb2.ERROR_CODE_FILE_NOT_FOUND
    retry_safe = True


class NoSourceError(CallError):
    code = error_pb2.ERROR_CODE_NO_SOURCE
    retry_safe = True


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


class WrongBytesError(WorkerError):
    """A tensor's bytes, as they came or as they lie, are not what its hash says; the message names it."""


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


class IdentityError(StartError):
    """This machine's cluster cannot be used, or not be joined."""

    exit_code = 1


class ServiceError(StartError):
    """A file of the system's services cannot be written."""

    exit_code = 1


class BadNameError(StartError):
    exit_code = 1


class EngineMismatchError(StartError):
    exit_code = 3


class PortError(StartError):
    exit_code = 3


class NameTakenError(StartError):
    exit_code = 3


class ListingError(StartError):
    exit_code = 3
