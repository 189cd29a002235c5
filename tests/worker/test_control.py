# SPDX-License-Identifier: MIT
"""What a coordinator may ask of a worker outside the line: describe, dry run, load, unload, health."""

import shutil
import time
from pathlib import Path

import grpc
import psutil
import pytest

from native import read_layout, versions
from protos.caravan.v1 import control_pb2, error_pb2
from tests.worker.conftest import StartWorker
from tests.worker.driver import (
    CALL_TIMEOUT_S,
    WorkerProcess,
    failure,
    load_request,
    stage_spec,
)
from tests.worker.heavy_model import write_heavy_model
from worker.control import MAX_PEERS


def refused(worker: WorkerProcess, request: control_pb2.LoadRequest) -> tuple[grpc.StatusCode, error_pb2.ErrorDetail]:
    with pytest.raises(grpc.RpcError) as caught:
        worker.load(request)
    return failure(caught.value)


def test_it_describes_itself(worker: WorkerProcess) -> None:
    about = worker.control.Describe(control_pb2.DescribeRequest(), timeout=CALL_TIMEOUT_S)
    assert about.name == "one"
    assert about.contract_version == "1"
    assert about.instance_id
    assert about.versions.llama_cpp == versions().llama_cpp
    assert about.versions.llama_cpp_python == versions().llama_cpp_python
    assert about.device.name == "CPU"
    assert about.device.kind == control_pb2.DEVICE_KIND_CPU
    assert 0 < about.device.free_bytes <= about.device.total_bytes
    assert list(about.loaded) == []
    (told,) = about.telemetry
    assert told.device == "CPU"
    assert 0 < told.used_bytes < about.device.total_bytes
    assert not told.HasField("power_w")


def test_a_dry_run_promises_what_loading_takes(worker: WorkerProcess, model: Path) -> None:
    stage = stage_spec(model, 1, 3)
    promised = worker.control.DryRun(control_pb2.DryRunRequest(stage=stage), timeout=CALL_TIMEOUT_S)
    assert promised.free_bytes > 0
    assert worker.health().state == control_pb2.WORKER_STATE_IDLE
    *_, last = worker.load(load_request(stage))
    taken = last.loaded.memory
    assert (taken.weights_bytes, taken.kv_bytes) == (promised.memory.weights_bytes, promised.memory.kv_bytes)
    assert taken.compute_bytes <= promised.memory.compute_bytes


def test_a_load_reports_progress_and_then_the_stage(worker: WorkerProcess, model: Path) -> None:
    *progress, last = worker.load(load_request(stage_spec(model, 2, 4), session_id="s-1", epoch=5))
    fractions = [message.progress.fraction for message in progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert (last.loaded.session_id, last.loaded.epoch) == ("s-1", 5)
    assert (last.loaded.layer_start, last.loaded.layer_end) == (2, 4)
    health = worker.health()
    assert (health.state, health.session_id, health.epoch) == (control_pb2.WORKER_STATE_READY, "s-1", 5)
    about = worker.control.Describe(control_pb2.DescribeRequest(), timeout=CALL_TIMEOUT_S)
    assert list(about.loaded) == [last.loaded]


def test_loading_what_is_loaded_answers_at_once(worker: WorkerProcess, model: Path) -> None:
    request = load_request(stage_spec(model, 0, 2))
    *_, first = worker.load(request)
    assert worker.load(request) == [first]


def test_a_new_epoch_of_the_same_stage_does_not_load_again(worker: WorkerProcess, heavy_model: Path) -> None:
    stage = stage_spec(heavy_model, 0, 4)
    worker.load(load_request(stage, session_id="one", epoch=1))
    for session_id, epoch in (("one", 2), ("another", 1)):
        warm, done = worker.load(load_request(stage, session_id=session_id, epoch=epoch))
        assert [source.origin for source in warm.progress.sources] == [control_pb2.WEIGHT_ORIGIN_WARM]
        assert (done.loaded.session_id, done.loaded.epoch) == (session_id, epoch)


def test_an_earlier_epoch_of_a_session_is_refused(worker: WorkerProcess, model: Path) -> None:
    worker.load(load_request(stage_spec(model, 0, 2), epoch=2))
    status, detail = refused(worker, load_request(stage_spec(model, 0, 2), epoch=1))
    assert status is grpc.StatusCode.FAILED_PRECONDITION
    assert detail.code == error_pb2.ERROR_CODE_WRONG_EPOCH
    assert worker.health().epoch == 2


def test_a_cancelled_load_leaves_nothing_loaded(worker: WorkerProcess, heavy_model: Path) -> None:
    process = psutil.Process(worker.process.pid)
    before_bytes = process.memory_info().rss
    call = worker.control.Load(load_request(stage_spec(heavy_model, 0, 4)), timeout=CALL_TIMEOUT_S)
    assert next(call).WhichOneof("event") == "progress"
    call.cancel()
    deadline = time.monotonic() + CALL_TIMEOUT_S
    while worker.health().state != control_pb2.WORKER_STATE_IDLE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    weights_bytes = read_layout(heavy_model).n_bytes
    assert process.memory_info().rss - before_bytes < weights_bytes / 2
    assert worker.load(load_request(stage_spec(heavy_model, 0, 1)))[-1].loaded.layer_end == 1


def test_only_one_load_runs_at_a_time(worker: WorkerProcess, heavy_model: Path) -> None:
    call = worker.control.Load(load_request(stage_spec(heavy_model, 0, 4)), timeout=CALL_TIMEOUT_S)
    next(call)
    assert worker.health().state == control_pb2.WORKER_STATE_LOADING
    status, detail = refused(worker, load_request(stage_spec(heavy_model, 0, 4), session_id="t"))
    assert status is grpc.StatusCode.ABORTED
    assert detail.code == error_pb2.ERROR_CODE_BUSY
    assert detail.retry_safe
    *_, last = call
    assert last.loaded.session_id == "s"


def test_unloading_during_a_load_ends_it(worker: WorkerProcess, heavy_model: Path) -> None:
    call = worker.control.Load(load_request(stage_spec(heavy_model, 0, 4)), timeout=CALL_TIMEOUT_S)
    next(call)
    worker.unload("s")
    assert worker.health().state == control_pb2.WORKER_STATE_IDLE
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert failure(caught.value)[0] is grpc.StatusCode.CANCELLED


def test_unloading_frees_the_memory_and_may_be_repeated(worker: WorkerProcess, heavy_model: Path) -> None:
    worker.load(load_request(stage_spec(heavy_model, 0, 4)))
    process = psutil.Process(worker.process.pid)
    loaded_bytes = process.memory_info().rss
    assert worker.unload("s")
    assert loaded_bytes - process.memory_info().rss > read_layout(heavy_model).n_bytes / 2
    assert not worker.unload("s")


def test_unloading_nothing_is_no_error(worker: WorkerProcess) -> None:
    for session_id in ("", "unknown"):
        assert not worker.unload(session_id)


def test_more_than_fits_is_refused_with_numbers_and_the_worker_lives(
    worker: WorkerProcess, model: Path, tmp_path: Path
) -> None:
    # Three terabytes, all of it a hole in the file.
    too_big = write_heavy_model(tmp_path / "huge.gguf", n_ff=1 << 26)
    status, detail = refused(worker, load_request(stage_spec(too_big, 0, 4)))
    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail.code == error_pb2.ERROR_CODE_OUT_OF_MEMORY
    assert detail.needed_bytes > detail.free_bytes > 0
    assert "do not fit" in detail.message
    assert "GiB is free" in detail.message
    assert (detail.worker, detail.layer_start, detail.layer_end) == ("one", 0, 4)
    assert worker.health().state == control_pb2.WORKER_STATE_IDLE
    assert worker.load(load_request(stage_spec(model, 0, 4)))[-1].HasField("loaded")


def test_a_stage_counts_against_the_memory_that_a_worker_may_use(
    start_worker: StartWorker, model: Path, heavy_model: Path
) -> None:
    limit_bytes = 64 << 20
    worker = start_worker("--memory", str(limit_bytes))
    *_, last = worker.load(load_request(stage_spec(model, 0, 8)))
    taken = last.loaded.memory
    free_bytes = limit_bytes - taken.weights_bytes - taken.kv_bytes - taken.compute_bytes
    about = worker.control.Describe(control_pb2.DescribeRequest(), timeout=CALL_TIMEOUT_S)
    assert (about.device.free_bytes, about.device.total_bytes) == (free_bytes, limit_bytes)
    dry_run = control_pb2.DryRunRequest(stage=stage_spec(model, 0, 8))
    assert worker.control.DryRun(dry_run, timeout=CALL_TIMEOUT_S).free_bytes == free_bytes
    status, detail = refused(worker, load_request(stage_spec(heavy_model, 0, 4), session_id="t"))
    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail.free_bytes == limit_bytes
    assert "64.0 MiB is free within its --memory of 64.0 MiB" in detail.message


def test_a_draft_model_and_a_stage_of_a_line_share_what_a_worker_may_use(
    start_worker: StartWorker, model: Path, heavy_model: Path
) -> None:
    worker = start_worker("--memory", "64MiB")
    drafting = stage_spec(model, 0, 8)
    drafting.is_draft = True
    *_, last = worker.load(load_request(drafting, session_id="draft"))
    taken = last.loaded.memory
    taken_bytes = taken.weights_bytes + taken.kv_bytes + taken.compute_bytes
    about = worker.control.Describe(control_pb2.DescribeRequest(), timeout=CALL_TIMEOUT_S)
    assert about.device.free_bytes == (64 << 20) - taken_bytes
    assert not about.loaded
    status, detail = refused(worker, load_request(stage_spec(heavy_model, 0, 4), session_id="line"))
    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail.free_bytes == (64 << 20) - taken_bytes
    assert "within its --memory of 64.0 MiB, of which" in detail.message
    part = stage_spec(model, 0, 4)
    part.is_draft = True
    _, detail = refused(worker, load_request(part, session_id="draft", epoch=2))
    assert "loaded as a whole, all 8 layers" in detail.message
    assert worker.unload("draft")


def test_a_missing_file_is_named_with_the_places_looked_at(worker: WorkerProcess, model: Path) -> None:
    request = load_request(stage_spec(model, 0, 4))
    request.stage.model.path = "/nowhere/there-is-none.gguf"
    status, detail = refused(worker, request)
    assert status is grpc.StatusCode.NOT_FOUND
    assert "/nowhere/there-is-none.gguf" in detail.message
    assert "--models" in detail.message


def test_a_file_that_is_no_gguf_is_refused(worker: WorkerProcess, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "shopping.gguf"
    path.write_text("bread, butter, a llama")
    request = load_request(stage_spec(model, 0, 4))
    request.stage.model.path = str(path)
    status, detail = refused(worker, request)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert detail.code == error_pb2.ERROR_CODE_BAD_FILE
    assert "not a GGUF" in detail.message


def test_a_truncated_gguf_is_refused(worker: WorkerProcess, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "torn.gguf"
    content = model.read_bytes()
    for n_bytes in (len(content) - 1000, 5000, 20):
        path.write_bytes(content[:n_bytes])
        request = load_request(stage_spec(model, 0, 4))
        request.stage.model.path = str(path)
        status, detail = refused(worker, request)
        assert status is grpc.StatusCode.INVALID_ARGUMENT, detail.message
        assert detail.code == error_pb2.ERROR_CODE_BAD_FILE
        assert "torn.gguf" in detail.message


def test_another_file_than_the_coordinators_is_refused(worker: WorkerProcess, model: Path) -> None:
    request = load_request(stage_spec(model, 0, 4))
    request.stage.model.identity = "0" * 64
    status, detail = refused(worker, request)
    assert status is grpc.StatusCode.FAILED_PRECONDITION
    assert detail.code == error_pb2.ERROR_CODE_IDENTITY_MISMATCH
    assert str(model) in detail.message


def test_a_model_folder_is_searched_for_the_file_name(start_worker: StartWorker, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(model, folder / "copy.gguf")
    worker = start_worker("--models", str(tmp_path), "--models", str(folder))
    for epoch, path in enumerate(("/only/on/the/coordinator/copy.gguf", r"C:\models\copy.gguf"), start=1):
        request = load_request(stage_spec(model, 0, 2), epoch=epoch)
        request.stage.model.path = path
        assert worker.load(request)[-1].loaded.layer_end == 2


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("stage.layer_end", 99, "layers [0, 99)"),
        ("stage.layer_end", 0, "are none"),
        ("session_id", "", "session id"),
        ("session_id", "a b", "session id"),
        ("session_id", "x" * 65, "session id"),
        ("next_address", "nowhere", "other worker's address"),
        ("epoch", 0, "epochs count from 1"),
        ("stage.model.path", "", "path and identity"),
        ("stage.model.identity", "", "path and identity"),
        ("stage.context.n_ctx_seq", 0, "at least 1"),
        ("stage.context.n_ctx_seq", 1 << 23, "are too much"),
        ("stage.context.n_batch", 0, "at least 1"),
        ("stage.context.n_seq_max", 10_000, "parallel sequences"),
        ("stage.context.kv_type_k", "f17", "f17"),
        ("stage.context.flash_attention", 0, "flash_attention"),
        ("stage.context.n_batch", 1 << 30, "too large"),
        ("stage.context.n_batch", 1 << 17, "at most 65536 are allowed"),
    ],
)
def test_arguments_that_no_session_can_have_are_refused(
    worker: WorkerProcess, model: Path, field: str, value: object, complaint: str
) -> None:
    request = load_request(stage_spec(model, 0, 4))
    *owners, name = field.split(".")
    owner: object = request
    for part in owners:
        owner = getattr(owner, part)
    setattr(owner, name, value)
    status, detail = refused(worker, request)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert complaint in detail.message


def test_more_peers_than_there_can_be_are_refused_before_anybody_connects(worker: WorkerProcess, model: Path) -> None:
    request = load_request(stage_spec(model, 0, 4))
    for _ in range(MAX_PEERS + 1):
        request.sources.peers.add(worker="w", address="127.0.0.1:1")
    status, detail = refused(worker, request)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert "from 128 workers at most, not from 129" in detail.message


def test_a_refused_load_leaves_what_is_loaded(worker: WorkerProcess, model: Path) -> None:
    worker.load(load_request(stage_spec(model, 0, 4)))
    refused(worker, load_request(stage_spec(model, 0, 99), session_id="t"))
    assert worker.health().session_id == "s"
