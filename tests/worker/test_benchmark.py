# SPDX-License-Identifier: MIT
"""How long stages take on a worker: measured by a real one, alone on its device."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import psutil
import pytest

from native import read_layout
from protos.caravan.v1 import control_pb2, error_pb2
from tests.models import write_model
from tests.worker.conftest import StartWorker
from tests.worker.driver import CALL_TIMEOUT_S, WorkerProcess, context_params, failure, load_request, stage_spec
from tests.worker.heavy_model import write_heavy_model


def benchmark_request(
    model: Path,
    *runs: tuple[int, int],
    batch_sizes: Sequence[int] = (1, 4, 64),
    limit_s: float = 10.0,
    **context: object,
) -> control_pb2.BenchmarkRequest:
    return control_pb2.BenchmarkRequest(
        model=control_pb2.ModelReference(path=str(model), identity=read_layout(model).identity),
        context=context_params(**context),
        runs=[control_pb2.BenchmarkRun(layer_start=start, layer_end=end) for start, end in runs],
        batch_sizes=batch_sizes,
        limit_s=limit_s,
    )


def benchmark(worker: WorkerProcess, request: control_pb2.BenchmarkRequest) -> control_pb2.BenchmarkResponse:
    return worker.control.Benchmark(request, timeout=CALL_TIMEOUT_S)


def refused(
    worker: WorkerProcess, request: control_pb2.BenchmarkRequest
) -> tuple[grpc.StatusCode, error_pb2.ErrorDetail]:
    with pytest.raises(grpc.RpcError) as caught:
        benchmark(worker, request)
    return failure(caught.value)


def wait_until_idle(worker: WorkerProcess) -> None:
    deadline_s = time.monotonic() + CALL_TIMEOUT_S
    while worker.health().state != control_pb2.WORKER_STATE_IDLE:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_each_run_gets_its_points_and_nothing_stays_loaded(worker: WorkerProcess, model: Path) -> None:
    answer = benchmark(worker, benchmark_request(model, (0, 2), (3, 4), (6, 8)))
    assert [(run.layer_start, run.layer_end) for run in answer.runs] == [(0, 2), (3, 4), (6, 8)]
    for run in answer.runs:
        assert [point.n_tokens for point in run.points] == [1, 4, 64]
        assert all(point.seconds > 0 for point in run.points)
    assert not answer.was_remembered
    assert worker.health().state == control_pb2.WORKER_STATE_IDLE
    assert worker.load(load_request(stage_spec(model, 0, 2)))[-1].HasField("loaded")


def test_more_layers_and_more_tokens_take_longer(worker: WorkerProcess, heavy_model: Path) -> None:
    one, three = benchmark(worker, benchmark_request(heavy_model, (1, 2), (0, 3))).runs
    assert one.points[-1].seconds > 4 * one.points[0].seconds
    assert three.points[-1].seconds > 1.5 * one.points[-1].seconds


@pytest.mark.parametrize("kind", ["qwen3moe", "rwkv7", "gemma4"])
def test_any_kind_of_model_can_be_measured_in_its_middle(worker: WorkerProcess, kind: str, tmp_path: Path) -> None:
    (run,) = benchmark(worker, benchmark_request(write_model(tmp_path / "model.gguf", kind), (1, 2))).runs
    assert [point.n_tokens for point in run.points] == [1, 4, 64]


def test_what_would_take_too_long_is_left_out(worker: WorkerProcess, heavy_model: Path) -> None:
    (run,) = benchmark(worker, benchmark_request(heavy_model, (0, 4), batch_sizes=(1, 2, 64), limit_s=0.001)).runs
    assert [point.n_tokens for point in run.points] == [1]


def test_a_stage_that_is_loaded_is_left_alone(worker: WorkerProcess, model: Path) -> None:
    worker.load(load_request(stage_spec(model, 0, 2)))
    status, detail = refused(worker, benchmark_request(model, (0, 2)))
    assert status is grpc.StatusCode.ABORTED
    assert (detail.code, detail.worker) == (error_pb2.ERROR_CODE_BUSY, "one")
    assert "unload" in detail.message
    assert worker.health().session_id == "s"


def test_nothing_is_loaded_beside_a_benchmark_and_cancelling_ends_it(
    start_worker: StartWorker, model: Path, heavy_model: Path
) -> None:
    worker = start_worker()
    before_bytes = psutil.Process(worker.process.pid).memory_info().rss
    call = worker.control.Benchmark.future(benchmark_request(heavy_model, *[(0, 4)] * 50), timeout=CALL_TIMEOUT_S)
    while worker.health().state != control_pb2.WORKER_STATE_LOADING:
        assert not call.done()
    with pytest.raises(grpc.RpcError) as caught:
        worker.load(load_request(stage_spec(model, 0, 2)))
    status, detail = failure(caught.value)
    assert status is grpc.StatusCode.ABORTED
    assert detail.retry_safe
    assert "benchmark" in detail.message
    assert refused(worker, benchmark_request(model, (0, 2)))[0] is grpc.StatusCode.ABORTED
    assert not worker.unload("s")
    call.cancel()
    wait_until_idle(worker)
    assert psutil.Process(worker.process.pid).memory_info().rss - before_bytes < read_layout(heavy_model).n_bytes / 2
    assert worker.load(load_request(stage_spec(model, 0, 2)))[-1].HasField("loaded")


def test_a_worker_that_is_told_to_stop_ends_a_benchmark(start_worker: StartWorker, heavy_model: Path) -> None:
    worker = start_worker()
    call = worker.control.Benchmark.future(benchmark_request(heavy_model, *[(0, 4)] * 200))
    while worker.health().state != control_pb2.WORKER_STATE_LOADING:
        assert not call.done()
    # The call's threads outlive it otherwise.
    ended = threading.Event()
    call.add_done_callback(lambda _: ended.set())
    worker.process.terminate()
    assert worker.process.wait(CALL_TIMEOUT_S) == 0
    assert ended.wait(CALL_TIMEOUT_S)


def test_a_run_that_does_not_fit_is_refused_with_the_numbers(worker: WorkerProcess, tmp_path: Path) -> None:
    too_big = write_heavy_model(tmp_path / "huge.gguf", n_ff=1 << 26)
    status, detail = refused(worker, benchmark_request(too_big, (1, 2)))
    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail.needed_bytes > detail.free_bytes > 0
    assert "layers [1, 2) do not fit" in detail.message
    assert worker.health().state == control_pb2.WORKER_STATE_IDLE


@pytest.mark.parametrize(
    ("request_of", "complaint"),
    [
        (lambda model: benchmark_request(model), "names the layers"),
        (lambda model: benchmark_request(model, (2, 2)), "are none"),
        (lambda model: benchmark_request(model, (0, 99)), "layers [0, 99)"),
        (lambda model: benchmark_request(model, (0, 2), batch_sizes=()), "batch sizes are at least 1"),
        (lambda model: benchmark_request(model, (0, 2), batch_sizes=(0, 1)), "batch sizes are at least 1"),
        (lambda model: benchmark_request(model, (0, 2), batch_sizes=(4, 4)), "larger than the one before"),
        (lambda model: benchmark_request(model, (0, 2), batch_sizes=(1, 65)), "a batch of 65 tokens"),
        (lambda model: benchmark_request(model, (0, 2), n_ctx_seq=32), "a batch of 64 tokens"),
        (lambda model: benchmark_request(model, (0, 2), limit_s=0), "more than 0 seconds"),
        (lambda model: benchmark_request(model, (0, 2), limit_s=float("nan")), "more than 0 seconds"),
        (lambda model: benchmark_request(model, (0, 2), kv_type_k="f17"), "f17"),
        (lambda model: benchmark_request(model, (0, 2), n_batch=1 << 30), "too large"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    worker: WorkerProcess, model: Path, request_of: Callable[[Path], control_pb2.BenchmarkRequest], complaint: str
) -> None:
    status, detail = refused(worker, request_of(model))
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert complaint in detail.message
