# SPDX-License-Identifier: MIT
"""A model whose experts exceed what a worker may use of its device: with them in system memory it runs."""

from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from native import ContextParams, FlashAttention, read_layout
from protos.caravan.v1 import control_pb2, error_pb2
from tests.conformance.split_check import Logits, session_steps
from tests.model_kinds import Size
from tests.models import write_model
from tests.plain_llama import plain_session
from tests.worker.conftest import StartWorker
from tests.worker.driver import (
    CALL_TIMEOUT_S,
    FedStream,
    WorkerProcess,
    context_params,
    failure,
    load_request,
    row_logits,
    stage_spec,
    want_logits,
)

MIB = 1 << 20
MEMORY_BYTES = 48 * MIB
RAM_BYTES = 128 * MIB
N_LAYER = 6


@pytest.fixture(scope="module")
def expert_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """81 MiB of experts, and 12 MiB of all else."""
    path = tmp_path_factory.mktemp("experts") / "experts.gguf"
    return write_model(path, "llama-moe", size=Size(N_LAYER, n_embd=384), with_text=True)


def _spec(model: Path, n_cpu_moe: int) -> control_pb2.StageSpec:
    context = context_params(n_seq_max=2, flash_attention=control_pb2.FLASH_ATTENTION_OFF)
    stage = stage_spec(model, 0, N_LAYER, context)
    stage.n_cpu_moe = n_cpu_moe
    return stage


def _told(worker: WorkerProcess, stage: control_pb2.StageSpec) -> control_pb2.DryRunResponse:
    return worker.control.DryRun(control_pb2.DryRunRequest(stage=stage), timeout=CALL_TIMEOUT_S)


def _device(worker: WorkerProcess) -> control_pb2.Device:
    return worker.control.Describe(control_pb2.DescribeRequest(), timeout=CALL_TIMEOUT_S).device


def _refusal(worker: WorkerProcess, stage: control_pb2.StageSpec) -> tuple[grpc.StatusCode, error_pb2.ErrorDetail]:
    with pytest.raises(grpc.RpcError) as caught:
        worker.load(load_request(stage))
    return failure(caught.value)


def _run_session(worker: WorkerProcess, model: Path) -> Logits:
    stream = FedStream(worker, worker)
    logits = []
    for step in session_steps(read_layout(model).n_vocab):
        result = stream.step(*step, outputs=[want_logits(row) for row in range(len(step[0]))])
        logits += [row_logits(row) for row in result.rows]
    stream.finish()
    return np.stack(logits)


def test_experts_that_exceed_the_memory_run_in_ram_as_foretold(
    start_worker: StartWorker, expert_model: Path, model: Path
) -> None:
    worker = start_worker("--memory", str(MEMORY_BYTES), "--ram", str(RAM_BYTES))
    # What a process takes once, for Python, gRPC and the first threads, is not the stage's.
    worker.load(load_request(stage_spec(model, 0, 8), session_id="warm"))
    worker.unload("warm")
    process = psutil.Process(worker.process.pid)
    before_bytes = process.memory_full_info().uss
    device = _device(worker)
    assert (device.free_bytes, device.host_free_bytes) == (MEMORY_BYTES, RAM_BYTES)

    whole = _told(worker, _spec(expert_model, 0))
    assert whole.memory.host_bytes == 0
    assert whole.memory.weights_bytes > whole.free_bytes == MEMORY_BYTES
    _, detail = _refusal(worker, _spec(expert_model, 0))
    assert "within its --memory of 48.0 MiB" in detail.message

    told = _told(worker, _spec(expert_model, N_LAYER)).memory
    experts_bytes = sum(tensor.n_bytes for tensor in read_layout(expert_model).tensors if "_exps." in tensor.name)
    assert (told.weights_bytes, told.host_bytes) == (whole.memory.weights_bytes, experts_bytes)
    *_, last = worker.load(load_request(_spec(expert_model, N_LAYER)))
    assert last.loaded.memory.host_bytes == experts_bytes
    assert last.loaded.memory.weights_bytes == told.weights_bytes

    params = ContextParams(256, 2, 64, 64, flash_attention=FlashAttention.OFF, n_threads=1)
    patterns = [rf"blk\.{i}\.ffn_(up|down|gate|gate_up)_(ch|)exps" for i in range(N_LAYER)]
    assert np.array_equal(_run_session(worker, expert_model), plain_session(expert_model, "CPU", patterns, params))

    taken_bytes = process.memory_full_info().uss - before_bytes
    assert abs(taken_bytes - (told.weights_bytes + told.kv_bytes + told.compute_bytes)) < 16 * MIB
    device = _device(worker)
    held = last.loaded.memory
    on_device = held.weights_bytes + held.kv_bytes + held.compute_bytes - held.host_bytes
    assert device.free_bytes == MEMORY_BYTES - on_device
    assert device.host_free_bytes == RAM_BYTES - experts_bytes


def test_experts_that_exceed_the_ram_are_refused_with_its_name(start_worker: StartWorker, expert_model: Path) -> None:
    worker = start_worker("--memory", str(MEMORY_BYTES), "--ram", str(64 * MIB))
    status, detail = _refusal(worker, _spec(expert_model, N_LAYER))
    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (detail.needed_bytes, detail.free_bytes) == (81 * MIB, 64 * MIB)
    assert "on system memory" in detail.message
    assert "64.0 MiB is free within its --ram of 64.0 MiB" in detail.message


def test_layers_with_their_experts_in_ram_are_measured_for_themselves(
    start_worker: StartWorker, expert_model: Path
) -> None:
    worker = start_worker("--memory", str(MEMORY_BYTES), "--ram", str(RAM_BYTES))
    stage = _spec(expert_model, 0)
    for n_cpu_moe in (0, 1):
        run = control_pb2.BenchmarkRun(layer_start=1, layer_end=2, n_cpu_moe=n_cpu_moe)
        request = control_pb2.BenchmarkRequest(
            model=stage.model, context=stage.context, runs=[run], batch_sizes=[1], limit_s=1.0
        )
        assert not worker.control.Benchmark(request, timeout=CALL_TIMEOUT_S).was_remembered
        assert worker.control.Benchmark(request, timeout=CALL_TIMEOUT_S).was_remembered


def test_more_layers_of_experts_than_there_are_is_a_bad_request(worker: WorkerProcess, expert_model: Path) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        _told(worker, _spec(expert_model, N_LAYER + 1))
    status, detail = failure(caught.value)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert "experts of 7 layers were asked for" in detail.message
    assert "6 have experts" in detail.message


def test_a_worker_on_the_cpu_keeps_nothing_apart_unless_asked(worker: WorkerProcess) -> None:
    assert _device(worker).host_free_bytes == 0
