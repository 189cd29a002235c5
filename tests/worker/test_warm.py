# SPDX-License-Identifier: MIT
"""Stages that stay loaded when their session is over: who may have them, and what has them go."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from native import read_layout
from protos.caravan.v1 import control_pb2
from tests.worker.conftest import StartWorker
from tests.worker.driver import (
    CALL_TIMEOUT_S,
    FedStream,
    WorkerProcess,
    context_params,
    greedy_sampler,
    load_request,
    stage_spec,
    want_token,
)

PROMPT = [5, 6, 7, 8]


@pytest.fixture
def worker(worker: WorkerProcess) -> WorkerProcess:
    """One of the pair, with nothing warm either."""
    worker.unload("")
    assert not held(worker)
    return worker


def load(worker: WorkerProcess, stage: control_pb2.StageSpec, session_id: str, epoch: int = 1) -> bool:
    """Whether the stage was still loaded."""
    messages = worker.load(load_request(stage, session_id=session_id, epoch=epoch))
    progress = [message.progress for message in messages if message.HasField("progress")]
    return any(source.origin == control_pb2.WEIGHT_ORIGIN_WARM for source in progress[-1].sources)


def end(worker: WorkerProcess, session_id: str) -> None:
    """As a coordinator does that has no more use for its session."""
    request = control_pb2.UnloadRequest(session_id=session_id, may_keep=True)
    assert worker.control.Unload(request, timeout=CALL_TIMEOUT_S).was_loaded


def held(worker: WorkerProcess) -> Sequence[control_pb2.LoadedStage]:
    """What it says that it holds."""
    return worker.control.Describe(control_pb2.DescribeRequest(), timeout=CALL_TIMEOUT_S).loaded


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + CALL_TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rows(worker: WorkerProcess, session_id: str) -> list[tuple[int, float]]:
    """Tokens that a line of this one worker samples, and their exact logarithms of probability."""
    stream = FedStream(worker, worker, session_id)
    result = stream.step(
        PROMPT, range(4), [0] * 4, [want_token(3)], sampler_operations=[greedy_sampler(0, logprobs=True)]
    )
    seen = [result.rows[0].sampled]
    for position in range(4, 10):
        seen.append(stream.step([seen[-1].token], [position], [0], [want_token(0)]).rows[0].sampled)
    stream.finish()
    return [(token.token, token.logprob) for token in seen]


def test_a_warm_stage_is_taken_over_as_good_as_new(worker: WorkerProcess, model: Path) -> None:
    stage = stage_spec(model, 0, 8)
    assert not load(worker, stage, "first")
    expected = rows(worker, "first")
    assert not held(worker)[0].is_warm
    end(worker, "first")
    (warm,) = held(worker)
    assert (warm.is_warm, warm.session_id, warm.layer_start, warm.layer_end) == (True, "", 0, 8)
    assert warm.memory.weights_bytes > 0
    assert (worker.health().state, worker.health().session_id) == (control_pb2.WORKER_STATE_IDLE, "")
    assert not worker.unload("unknown")
    assert load(worker, stage, "second")
    assert not held(worker)[0].is_warm
    assert rows(worker, "second") == expected


def test_a_load_of_anything_else_has_a_warm_stage_go(worker: WorkerProcess, model: Path, tmp_path: Path) -> None:
    stage = stage_spec(model, 0, 8)
    load(worker, stage, "first")
    end(worker, "first")
    assert not load(worker, stage_spec(model, 0, 4), "second")
    end(worker, "second")
    assert not load(worker, stage_spec(model, 0, 4, context_params(n_ctx_seq=128)), "third")
    end(worker, "third")
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(model.read_bytes())
    assert not load(worker, stage_spec(copy, 0, 4, context_params(n_ctx_seq=128)), "fourth")
    end(worker, "fourth")
    # Other weights may have the same header.
    os.utime(copy)
    assert not load(worker, stage_spec(copy, 0, 4, context_params(n_ctx_seq=128)), "fifth")
    assert len(held(worker)) == 1


@pytest.mark.parametrize("session_id", ["", "first"])
def test_unloading_frees_a_warm_stage_at_once(worker: WorkerProcess, heavy_model: Path, session_id: str) -> None:
    load(worker, stage_spec(heavy_model, 0, 4), "first")
    process = psutil.Process(worker.process.pid)
    end(worker, "first")
    loaded_bytes = process.memory_info().rss
    assert not worker.unload(session_id)
    assert loaded_bytes - process.memory_info().rss > read_layout(heavy_model).n_bytes / 2
    assert not held(worker)


def test_a_benchmark_has_a_warm_stage_go(worker: WorkerProcess, model: Path) -> None:
    load(worker, stage_spec(model, 0, 8), "first")
    end(worker, "first")
    request = control_pb2.BenchmarkRequest(
        model=stage_spec(model, 0, 8).model, context=context_params(n_ctx_seq=192), batch_sizes=[1], limit_s=1.0,
        runs=[control_pb2.BenchmarkRun(layer_start=1, layer_end=2)],
    )  # fmt: skip
    assert not worker.control.Benchmark(request, timeout=CALL_TIMEOUT_S).was_remembered
    assert not held(worker)


def test_a_warm_stage_goes_when_its_time_is_over(start_worker: StartWorker, model: Path) -> None:
    at_once, soon = start_worker("--keep-loaded", "0"), start_worker("--keep-loaded", "1s")
    for worker in (at_once, soon):
        load(worker, stage_spec(model, 0, 8), "first")
        end(worker, "first")
    assert not held(at_once)
    assert held(soon)
    wait_until(lambda: not held(soon))
    assert not load(soon, stage_spec(model, 0, 8), "second")
    end(soon, "second")
    # The time of one session is not that of the next.
    assert load(soon, stage_spec(model, 0, 8), "third")
    time.sleep(1.2)
    assert held(soon)


def test_the_stage_of_a_coordinator_that_vanished_is_taken_over(worker: WorkerProcess, model: Path) -> None:
    stage = stage_spec(model, 0, 8)
    load(worker, stage, "first")
    stream = FedStream(worker, worker, "first")
    stream.step(PROMPT, range(4), [0] * 4, [want_token(3)], sampler_operations=[greedy_sampler(0)])
    stream.cancel()
    wait_until(lambda: not held(worker)[0].is_serving)
    assert load(worker, stage, "second")
    assert len(rows(worker, "second")) == 7
