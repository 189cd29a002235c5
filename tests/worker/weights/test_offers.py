# SPDX-License-Identifier: MIT
"""What a coordinator offers to a worker, over gRPC: what is here of it, and its header where that is not."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from protos.caravan.v1 import control_pb2, error_pb2
from protos.weights import is_held
from tests.worker.conftest import StartWorker
from tests.worker.driver import CALL_TIMEOUT_S, WorkerProcess, context_params, failure, load_request, stage_spec
from tests.worker.weights.fetching import Source
from worker.weights.store import ModelStore, models_folder

_NOWHERE = "/nowhere/tiny.gguf"


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has an empty one."""
    monkeypatch.setenv("CARAVAN_CACHE", str(tmp_path / "cache"))


def offer(worker: WorkerProcess, source: Source, path: str = _NOWHERE) -> control_pb2.OfferResponse:
    """Offers a model."""
    request = control_pb2.OfferRequest(
        model=control_pb2.ModelReference(path=path, identity=source.layout.identity),
        parts=[
            control_pb2.ModelPart(file_name=p.file_name, n_bytes=p.n_bytes, n_header_bytes=p.n_header_bytes)
            for p in source.parts
        ],
    )
    return worker.control.Offer(request, timeout=CALL_TIMEOUT_S)


def header(source: Source) -> list[control_pb2.PutHeaderRequest]:
    """In chunks."""
    requests = [control_pb2.PutHeaderRequest(part=chunk.part, chunk=chunk.data) for chunk in source.chunks()]
    requests[0].identity = source.layout.identity
    return requests


def put(worker: WorkerProcess, requests: list[control_pb2.PutHeaderRequest]) -> None:
    """Sends a header."""
    worker.control.PutHeader(iter(requests), timeout=CALL_TIMEOUT_S)


def test_a_model_that_is_nowhere_is_known_by_its_header_and_held_as_far_as_it_came(
    start_worker: StartWorker, source: Source
) -> None:
    worker = start_worker()
    assert offer(worker, source) == control_pb2.OfferResponse(has_header=False)
    put(worker, header(source))
    answer = offer(worker, source)
    assert answer.has_header
    assert not any(is_held(answer.held_tensors, tensor) for tensor in range(source.n_tensors))
    store = ModelStore(models_folder(), None)
    model = store.find(source.layout.identity)
    assert model is not None
    source.fetch(model, 3, 70)
    held = offer(worker, source).held_tensors
    assert [tensor for tensor in range(source.n_tensors) if is_held(held, tensor)] == [3, 70]
    store.close()


def test_a_header_is_enough_for_a_dry_run_and_a_benchmark_and_not_for_a_load(
    start_worker: StartWorker, source: Source
) -> None:
    worker = start_worker()
    offer(worker, source)
    put(worker, header(source))
    stage = stage_spec(source.layout.path, 2, 4)
    expected = worker.control.DryRun(control_pb2.DryRunRequest(stage=stage), timeout=CALL_TIMEOUT_S).memory
    stage.model.path = _NOWHERE
    dry = worker.control.DryRun(control_pb2.DryRunRequest(stage=stage), timeout=CALL_TIMEOUT_S)
    assert dry.memory == expected
    request = control_pb2.BenchmarkRequest(
        model=stage.model,
        context=context_params(),
        runs=[control_pb2.BenchmarkRun(layer_start=2, layer_end=4)],
        batch_sizes=[1],
        limit_s=0.1,
    )
    assert worker.control.Benchmark(request, timeout=CALL_TIMEOUT_S).runs[0].points[0].seconds > 0
    with pytest.raises(grpc.RpcError) as caught:
        worker.load(load_request(stage))
    assert failure(caught.value)[1].code == error_pb2.ERROR_CODE_FILE_NOT_FOUND
    store = ModelStore(models_folder(), None)
    model = store.find(source.layout.identity)
    assert model is not None
    source.fetch(model)
    store.close()
    assert worker.load(load_request(stage))[-1].loaded.layer_end == 4


def test_a_file_in_the_workers_folders_is_the_model(start_worker: StartWorker, source: Source, tmp_path: Path) -> None:
    (tmp_path / "mine" / "below").mkdir(parents=True)
    worker = start_worker("--models", str(tmp_path / "mine"))
    assert not offer(worker, source).has_header
    shutil.copy(source.layout.path, tmp_path / "mine" / "below" / "another name.gguf")
    answer = offer(worker, source)
    assert answer.has_header
    assert all(is_held(answer.held_tensors, tensor) for tensor in range(source.n_tensors))
    stage = stage_spec(source.layout.path, 0, 2)
    stage.model.path = _NOWHERE
    assert worker.load(load_request(stage))[-1].loaded.layer_end == 2


def test_what_is_no_header_is_refused_and_leaves_nothing(start_worker: StartWorker, source: Source) -> None:
    worker = start_worker()
    good = header(source)

    def refusal(requests: list[control_pb2.PutHeaderRequest]) -> str:
        with pytest.raises(grpc.RpcError) as caught:
            put(worker, requests)
        status, detail = failure(caught.value)
        assert status is grpc.StatusCode.INVALID_ARGUMENT
        return detail.message

    assert "was not offered" in refusal(good)
    offer(worker, source)
    assert "no header came" in refusal([])
    assert "ends after" in refusal(good[:-1])
    assert "only the first message" in refusal([good[0], good[0]])
    large = control_pb2.PutHeaderRequest(identity=source.layout.identity, chunk=bytes((1 << 20) + 1))
    assert "at most 1 MiB" in refusal([large])
    assert [path.name for path in models_folder().iterdir() if path.name not in (".lock", ".files")] == []


def test_a_caller_that_goes_away_in_the_middle_of_a_header_leaves_nothing(
    start_worker: StartWorker, source: Source
) -> None:
    worker = start_worker()
    offer(worker, source)

    def half() -> Iterator[control_pb2.PutHeaderRequest]:
        yield from header(source)[:2]
        call.cancel()

    call = worker.control.PutHeader.future(half(), timeout=CALL_TIMEOUT_S)
    with pytest.raises(grpc.FutureCancelledError):
        call.result()
    put(worker, header(source))
    assert offer(worker, source).has_header


def test_an_offer_of_what_is_no_model_is_refused(worker: WorkerProcess, source: Source) -> None:
    part = [control_pb2.ModelPart(file_name="model.gguf", n_bytes=9, n_header_bytes=8)]
    for request in (
        control_pb2.OfferRequest(),
        control_pb2.OfferRequest(model=control_pb2.ModelReference(identity="../" * 21 + "x")),
        control_pb2.OfferRequest(model=control_pb2.ModelReference(identity=source.layout.identity)),
        control_pb2.OfferRequest(model=control_pb2.ModelReference(identity="f" * 64, path="p" * 40_000), parts=part),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            worker.control.Offer(request, timeout=CALL_TIMEOUT_S)
        assert failure(caught.value)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_model_at_a_place_where_no_file_can_be_is_not_here(worker: WorkerProcess) -> None:
    for path in ("/" + "n" * 300, "p" * 10_000, "~nobody of that name/model.gguf", "a\0b", "/dev/zero", "/"):
        request = control_pb2.OfferRequest(model=control_pb2.ModelReference(path=path, identity="f" * 64))
        request.parts.add(file_name="model.gguf", n_bytes=9, n_header_bytes=8)
        assert not worker.control.Offer(request, timeout=CALL_TIMEOUT_S).has_header, path


def test_a_refusal_that_quotes_much_still_says_why(worker: WorkerProcess, source: Source) -> None:
    request = control_pb2.OfferRequest(model=control_pb2.ModelReference(identity=source.layout.identity))
    request.parts.add(file_name="\u2581" * 100_000, n_bytes=9, n_header_bytes=8)
    with pytest.raises(grpc.RpcError) as caught:
        worker.control.Offer(request, timeout=CALL_TIMEOUT_S)
    status, detail = failure(caught.value)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert detail.message.startswith("'\u2581")
