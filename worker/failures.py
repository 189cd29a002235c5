# SPDX-License-Identifier: MIT
"""The one place where errors become an ErrorDetail for the caller. Pure; any thread."""

from dataclasses import dataclass

import native
from native import LayerRange, NativeError
from protos.caravan.v1 import error_pb2
from worker.errors import CallError, DiskFullError, DoesNotFitError, NeighbourError


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
    # A path of this machine may be no Unicode.
    message = str(error).encode(errors="replace").decode()
    detail = error_pb2.ErrorDetail(message=message, worker=culprit.worker)
    if culprit.layers is not None:
        detail.layer_start, detail.layer_end = culprit.layers.start, culprit.layers.end
    if isinstance(error, CallError):
        detail.code, detail.retry_safe = error.code, error.retry_safe
    elif isinstance(error, NativeError):
        detail.code = code_of_native(type(error))
    else:
        detail.code = error_pb2.ERROR_CODE_ENGINE
        detail.message = f"unexpected {type(error).__name__}: {message}"
    if isinstance(error, DoesNotFitError | DiskFullError | native.DeviceMemoryError):
        detail.needed_bytes, detail.free_bytes = error.needed_bytes, error.free_bytes
    return detail


def code_of_native(kind: type[NativeError]) -> error_pb2.ErrorCode:
    """The code for one of native's errors, by its nearest listed ancestor."""
    for ancestor in kind.__mro__:
        if ancestor in _CODE_OF_NATIVE:
            return _CODE_OF_NATIVE[ancestor]
    return error_pb2.ERROR_CODE_ENGINE
