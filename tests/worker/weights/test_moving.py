# SPDX-License-Identifier: MIT
"""Weights on the move between real workers: each gets its own tensors once, and computes what one machine would."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from native import Batch, Context, ContextParams, LayerRange, Model
from native.placement import tensors_elsewhere
from protos.caravan.v1 import control_pb2, weights_pb2
from protos.weights import is_held
from tests.model_kinds.parts import Size
from tests.models import split_model, write_model
from tests.worker.driver import FedStream, WorkerProcess, failure, row_logits, want_logits
from tests.worker.weights.coordinator import Coordinator, no_source, weights_address

_CUT, _N_LAYER = 3, 6
_PROMPT = [5, 30, 17, 42, 40, 3, 9]

Start = Callable[[str], WorkerProcess]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 16 MB, so that what is said beside weights is little."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    return write_model(path, "llama", size=Size(_N_LAYER, n_embd=256, n_vocab=1500))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a worker, by a name that stands for its store as well."""
    workers: list[WorkerProcess] = []

    def start(name: str) -> WorkerProcess:
        workers.append(WorkerProcess("--no-mdns", "--threads", "1", "--name", name, cache=tmp_path / name))
        return workers[-1]

    yield start
    endings = [(worker.was_killed, *worker.stop()) for worker in workers]
    assert all(was_killed or code == 0 for was_killed, code, _ in endings), endings
    assert not [complaints for _, _, complaints in endings if "Traceback" in complaints]


def _load_line(coordinator: Coordinator, first: WorkerProcess, last: WorkerProcess, session_id: str) -> None:
    for worker in (first, last):
        coordinator.offer(worker)
    coordinator.load(last, coordinator.request(_CUT, _N_LAYER, session_id=session_id))
    coordinator.load(first, coordinator.request(0, _CUT, session_id=session_id, next_worker=last))
    coordinator.join()


def _logits(first: WorkerProcess, last: WorkerProcess, session_id: str) -> np.ndarray:
    stream = FedStream(first, last, session_id)
    n_prompt = len(_PROMPT)
    result = stream.step(_PROMPT, list(range(n_prompt)), [0] * n_prompt, [want_logits(n_prompt - 1)])
    stream.finish()
    return row_logits(result.rows[0])


def _whole_logits(model: Path) -> np.ndarray:
    n_prompt = len(_PROMPT)
    params = ContextParams(n_ctx_seq=256, n_batch=64, n_ubatch=64, n_threads=1)
    with Model.load(model) as loaded, Context(loaded, params) as context:
        arrays = [np.array(v, dtype=np.int32) for v in (_PROMPT, range(n_prompt), [0] * n_prompt, [n_prompt - 1])]
        context.step(Batch(*arrays))
        return context.logits(n_prompt - 1).copy()


def test_each_worker_gets_its_own_tensors_once_and_the_line_computes_what_the_whole_does(
    model: Path, start: Start
) -> None:
    first, last, coordinator = start("first"), start("last"), Coordinator(model)
    _load_line(coordinator, first, last, "one")
    own_bytes = coordinator.own_bytes(0, _CUT) + coordinator.own_bytes(_CUT, _N_LAYER)
    assert own_bytes <= coordinator.sent_bytes <= 1.01 * own_bytes
    assert max(coordinator.given.values()) <= max(tensor.n_bytes for tensor in coordinator.layout.tensors)
    assert np.array_equal(_logits(first, last, "one"), _whole_logits(model))
    for worker in (first, last):
        worker.unload("one")
    coordinator.sent_bytes = coordinator.n_connections = 0
    _load_line(coordinator, first, last, "two")
    assert coordinator.sent_bytes == coordinator.n_connections == 0
    assert np.array_equal(_logits(first, last, "two"), _whole_logits(model))


def test_a_worker_gets_from_another_what_that_has(model: Path, start: Start) -> None:
    old, new, coordinator = start("old"), start("new"), Coordinator(model)
    coordinator.offer(old)
    coordinator.load(old, coordinator.request(0, 4))
    host, port = weights_address(old)
    held = coordinator.offer(old).held_tensors
    coordinator.offer(new)
    coordinator.given.clear()
    request = coordinator.request(2, _N_LAYER)
    peer = control_pb2.WeightPeer(worker="old", address=f"{host}:{port}", held_tensors=held)
    request.sources.peers.append(peer)
    messages = coordinator.load(new, request)
    elsewhere = tensors_elsewhere(coordinator.layout, LayerRange(2, _N_LAYER))
    own = [(number, t) for number, t in enumerate(coordinator.layout.tensors) if t not in elsewhere]
    shared = sum(tensor.n_bytes for number, tensor in own if is_held(held, number))
    assert shared > 0
    assert coordinator.given.total() == coordinator.own_bytes(2, _N_LAYER) - shared
    progress = [message.progress for message in messages if message.HasField("progress")]
    assert [source.n_bytes for source in progress[-1].sources if source.worker == "old"] == [shared]
    assert progress[-1].fetched_bytes == progress[-1].to_fetch_bytes == coordinator.own_bytes(2, _N_LAYER)
    fractions = [each.fraction for each in progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_a_model_in_several_files_comes_to_workers_too(tmp_path: Path, start: Start) -> None:
    whole = write_model(tmp_path / "whole.gguf", "llama", n_layer=_N_LAYER)
    parts = split_model(whole, tmp_path / "model")
    first, last, coordinator = start("first"), start("last"), Coordinator(parts[0])
    _load_line(coordinator, first, last, "one")
    assert coordinator.given.total() == coordinator.own_bytes(0, _CUT) + coordinator.own_bytes(_CUT, _N_LAYER)
    assert np.array_equal(_logits(first, last, "one"), _whole_logits(whole))


def test_a_worker_killed_while_it_fetches_goes_on_where_it_was(model: Path, start: Start) -> None:
    coordinator = Coordinator(model, pace_bytes_per_s=2e6)
    n_kills = 4
    for attempt in range(n_kills):
        worker = start("worker")
        _check_nothing_comes_twice(coordinator, worker)
        messages = coordinator.loading(worker, coordinator.request(0, _N_LAYER))
        assert next(messages).HasField("needs_coordinator")
        time.sleep(0.2 + 0.15 * attempt)
        worker.kill()
        with pytest.raises(grpc.RpcError):
            list(messages)
        coordinator.join()
    coordinator.pace_bytes_per_s = 0
    coordinator.given.clear()
    worker = start("worker")
    held = _check_nothing_comes_twice(coordinator, worker)
    coordinator.load(worker, coordinator.request(0, _N_LAYER))
    tensors = coordinator.layout.tensors
    missing_bytes = sum(tensor.n_bytes for number, tensor in enumerate(tensors) if not is_held(held, number))
    assert coordinator.given.total() <= missing_bytes
    assert coordinator.given.total() < coordinator.layout.n_bytes
    assert np.array_equal(_logits(worker, worker, "s"), _whole_logits(model))


def _check_nothing_comes_twice(coordinator: Coordinator, worker: WorkerProcess) -> bytes:
    """From now on what the worker holds must not be asked for; which tensors that are."""
    held = coordinator.offer(worker).held_tensors

    def give(ask: weights_pb2.WeightsAsk, data: bytes) -> bytes:
        assert not is_held(held, ask.tensor), "it came before and was verified"
        return data

    coordinator.spoil = give
    return held


def test_a_coordinator_that_gives_something_else_fails_the_load_with_the_tensors_name(
    model: Path, start: Start
) -> None:
    worker = start("worker")
    coordinator = Coordinator(model, spoil=lambda ask, data: bytes(len(data)) if ask.tensor == 7 else data)
    coordinator.offer(worker)
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.load(worker, coordinator.request(0, _N_LAYER))
    status, detail = failure(caught.value)
    assert status is grpc.StatusCode.UNAVAILABLE
    assert f"nobody gives tensor {coordinator.layout.tensors[7].name}" in no_source(detail)
    coordinator.join()
    assert worker.health().state == control_pb2.WORKER_STATE_IDLE
    coordinator.spoil = lambda ask, data: data
    coordinator.load(worker, coordinator.request(0, _N_LAYER, epoch=2))


@pytest.mark.parametrize("ends", ["the call", "the worker"])
def test_a_load_that_waits_for_weights_ends_at_once_when_it_should(ends: str, model: Path, start: Start) -> None:
    worker, coordinator = start("worker"), Coordinator(model, pace_bytes_per_s=1e6)
    coordinator.offer(worker)
    request = coordinator.request(0, _N_LAYER)
    call = worker.control.Load(request, timeout=60)
    coordinator.connect(worker, request, next(call).needs_coordinator.n_connections)
    while next(call).progress.fetched_bytes == 0:
        pass
    started = time.monotonic()
    if ends == "the call":
        call.cancel()
        while worker.health().state != control_pb2.WORKER_STATE_IDLE:
            time.sleep(0.01)
    else:
        worker.process.terminate()
        assert worker.process.wait(60) == 0
    assert time.monotonic() - started < 10
    coordinator.join()
