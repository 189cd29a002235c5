# SPDX-License-Identifier: MIT
"""How long stages take on a worker: measured by a real one, alone on its device."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where this module's workers keep what they measure."""
    folder = tmp_path_factory.mktemp("cache") / "made" / "when needed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARAVAN_CACHE", str(folder))
        yield folder / "benchmarks"


@pytest.fixture(autouse=True)
def nothing_remembered(cache: Path) -> None:
    shutil.rmtree(cache, ignore_errors=True)


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


def long_request(heavy_model: Path) -> control_pb2.BenchmarkRequest:
    """One that takes many seconds."""
    return benchmark_request(heavy_model, (0, 4), batch_sizes=range(1, 65), limit_s=60.0)


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
    call = worker.control.Benchmark.future(long_request(heavy_model))
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
    call = worker.control.Benchmark.future(long_request(heavy_model))
    while worker.health().state != control_pb2.WORKER_STATE_LOADING:
        assert not call.done()
    # The call's threads outlive it otherwise.
    ended = threading.Event()
    call.add_done_callback(lambda _: ended.set())
    worker.process.terminate()
    assert worker.process.wait(CALL_TIMEOUT_S) == 0
    assert ended.wait(CALL_TIMEOUT_S)


def test_what_was_measured_is_remembered_by_all_workers_of_a_device(
    pair: tuple[WorkerProcess, WorkerProcess], worker: WorkerProcess, model: Path, cache: Path
) -> None:
    measured = benchmark(worker, benchmark_request(model, (1, 3)))
    again = benchmark(pair[1], benchmark_request(model, (1, 3)))
    assert again.was_remembered
    assert again.runs == measured.runs
    assert [path.suffix for path in cache.iterdir()] == [".json"]


def test_only_what_is_not_remembered_is_measured(worker: WorkerProcess, model: Path, cache: Path) -> None:
    (known,) = benchmark(worker, benchmark_request(model, (0, 2))).runs
    both = benchmark(worker, benchmark_request(model, (6, 8), (0, 2)))
    assert not both.was_remembered
    assert both.runs[1] == known
    assert len(list(cache.iterdir())) == 2


def test_what_is_remembered_is_answered_while_a_stage_is_loaded(worker: WorkerProcess, model: Path) -> None:
    benchmark(worker, benchmark_request(model, (0, 2)))
    worker.load(load_request(stage_spec(model, 0, 2)))
    assert benchmark(worker, benchmark_request(model, (0, 2))).was_remembered


def test_a_copy_elsewhere_and_other_layers_of_the_same_shape_are_known(
    worker: WorkerProcess, model: Path, tmp_path: Path
) -> None:
    benchmark(worker, benchmark_request(model, (1, 3)))
    copy = Path(shutil.copy(model, tmp_path / "renamed.gguf"))
    assert benchmark(worker, benchmark_request(copy, (4, 6))).was_remembered


@pytest.mark.parametrize(
    "request_of",
    [
        lambda model: benchmark_request(model, (0, 2)),
        lambda model: benchmark_request(model, (6, 8)),
        lambda model: benchmark_request(model, (1, 4)),
        lambda model: benchmark_request(model, (1, 3), batch_sizes=(1, 4)),
        lambda model: benchmark_request(model, (1, 3), n_ctx_seq=512),
        lambda model: benchmark_request(model, (1, 3), kv_type_k="f32"),
        lambda model: benchmark_request(model, (1, 3), kv_unified=True),
    ],
)
def test_what_could_take_another_time_is_measured(
    worker: WorkerProcess, model: Path, request_of: Callable[[Path], control_pb2.BenchmarkRequest]
) -> None:
    benchmark(worker, benchmark_request(model, (1, 3)))
    assert not benchmark(worker, request_of(model)).was_remembered


def test_another_number_of_threads_is_measured(worker: WorkerProcess, model: Path) -> None:
    benchmark(worker, benchmark_request(model, (1, 3)))
    with_two = WorkerProcess("--no-mdns", "--threads", "2")
    assert not benchmark(with_two, benchmark_request(model, (1, 3))).was_remembered
    assert with_two.stop() == (0, "")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"points": []}', '{"points": [[1, -1.0]]}', '{"points": [[1]]}'])
def test_what_is_damaged_is_measured_anew(worker: WorkerProcess, model: Path, cache: Path, damage: str) -> None:
    benchmark(worker, benchmark_request(model, (1, 3)))
    (path,) = cache.iterdir()
    path.write_text(damage)
    assert not benchmark(worker, benchmark_request(model, (1, 3))).was_remembered
    assert benchmark(worker, benchmark_request(model, (1, 3))).was_remembered


def test_where_nothing_can_be_kept_the_log_says_so_and_the_answer_is_none_the_worse(model: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text("a file where the folder would be")
    worker = WorkerProcess("--no-mdns")
    answer = benchmark(worker, benchmark_request(model, (1, 3)))
    code, complaints = worker.stop()
    cache.unlink()
    assert answer.runs[0].points
    assert code == 0
    assert complaints.count("benchmarks cannot be kept") == 1
    assert "CARAVAN_CACHE" in complaints


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
        (lambda model: benchmark_request(model), "names 1 to 512 ranges of layers"),
        (lambda model: benchmark_request(model, *[(0, 2)] * 513), "names 1 to 512 ranges of layers"),
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
