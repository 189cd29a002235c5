# SPDX-License-Identifier: MIT
"""Every error that can end a call has a code, and every code a status; the detail says whose it is."""

from typing import TypeVar

import grpc
import pytest

import native
from native import LayerRange, NativeError
from protos.caravan.v1 import error_pb2
from protos.failures import status_of
from worker.errors import BadFrameError, CallError, DoesNotFitError, NeighbourError, StartError
from worker.failures import Culprit, code_of_native, detail_of

E = TypeVar("E", bound=Exception)
CULPRIT = Culprit("attic", LayerRange(4, 8))


def every_subclass(kind: type[E]) -> set[type[E]]:
    subclasses: list[type[E]] = kind.__subclasses__()
    return {kind}.union(*(every_subclass(subclass) for subclass in subclasses))


def by_name(kinds: set[type[E]]) -> list[type[E]]:
    return sorted(kinds, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", by_name(every_subclass(CallError) - {CallError}))
def test_every_call_error_has_a_code_with_a_status_of_its_own(kind: type[CallError]) -> None:
    assert kind.code in error_pb2.ErrorCode.values()
    assert status_of(kind.code) not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)


@pytest.mark.parametrize("kind", by_name(every_subclass(StartError)))
def test_every_start_error_has_an_exit_code(kind: type[StartError]) -> None:
    assert kind.exit_code in (1, 3)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (NativeError, grpc.StatusCode.INTERNAL),
        (native.LibraryMismatchError, grpc.StatusCode.INTERNAL),
        (native.UnknownDeviceError, grpc.StatusCode.INTERNAL),
        (native.ModelFileError, grpc.StatusCode.INVALID_ARGUMENT),
        (native.ModelFileNotFoundError, grpc.StatusCode.NOT_FOUND),
        (native.UnsupportedModelError, grpc.StatusCode.UNIMPLEMENTED),
        (native.LoadCancelledError, grpc.StatusCode.CANCELLED),
        (native.LoadFailedError, grpc.StatusCode.INTERNAL),
        (native.DeviceMemoryError, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (native.DecodeError, grpc.StatusCode.INTERNAL),
        (native.CrossingError, grpc.StatusCode.DATA_LOSS),
        (native.GrammarError, grpc.StatusCode.INVALID_ARGUMENT),
        (native.SamplingError, grpc.StatusCode.INTERNAL),
        (native.TokenizeError, grpc.StatusCode.INTERNAL),
        (native.ChatTemplateError, grpc.StatusCode.INTERNAL),
    ],
)
def test_each_of_llama_cpps_failures_has_its_status(kind: type[NativeError], status: grpc.StatusCode) -> None:
    assert status_of(code_of_native(kind)) is status


def test_no_native_error_is_missing_from_that_list() -> None:
    (parameters,) = (
        mark.args[1]
        for mark in test_each_of_llama_cpps_failures_has_its_status.pytestmark  # type: ignore[attr-defined]
        if mark.name == "parametrize"
    )
    public = {kind for kind in every_subclass(NativeError) if not kind.__name__.startswith("_")}
    assert {kind for kind, _ in parameters} == public


def test_a_detail_names_the_worker_and_its_layers() -> None:
    detail = detail_of(BadFrameError("no"), CULPRIT)
    assert (detail.worker, detail.layer_start, detail.layer_end, detail.message) == ("attic", 4, 8, "no")
    assert detail.code == error_pb2.ERROR_CODE_BAD_FRAME


def test_a_detail_carries_the_numbers_of_what_does_not_fit() -> None:
    detail = detail_of(DoesNotFitError("no", needed_bytes=5, free_bytes=3), CULPRIT)
    assert (detail.needed_bytes, detail.free_bytes) == (5, 3)
    detail = detail_of(native.DeviceMemoryError("CUDA0", 7, 6), CULPRIT)
    assert (detail.needed_bytes, detail.free_bytes) == (7, 6)


def test_a_neighbours_detail_is_passed_on_as_it_is() -> None:
    detail = error_pb2.ErrorDetail(message="mine", worker="cellar")
    assert detail_of(NeighbourError(detail), CULPRIT) == detail


def test_an_unforeseen_error_says_so() -> None:
    detail = detail_of(KeyError("x"), CULPRIT)
    assert detail.code == error_pb2.ERROR_CODE_ENGINE
    assert detail.message == "unexpected KeyError: 'x'"
