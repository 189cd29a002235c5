# SPDX-License-Identifier: MIT
"""When things go wrong: one clear error that names the culprit, nothing hangs, nothing is left behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from coordinator import (
    ClosedError,
    Distribution,
    DoesNotFitError,
    FrameRefusedError,
    LayerRange,
    LoadEvent,
    LoadPhase,
    Mesh,
    ModelError,
    ModelNotFoundError,
    NoWorkersError,
    PlanError,
    WorkerError,
    WorkerLostError,
    line,
)
from coordinator.control import WorkerClient
from coordinator.frames import PlannedFrame
from coordinator.line import encode_frame
from protos.caravan.v1 import frame_pb2
from protos.channels import PLAIN
from tests.line.conftest import N_CTX, StartWorker, open_mesh
from tests.line.endless_streams import endless
from tests.line.giant import write_giant
from tests.line.processes import WorkerProcess

PROMPT = "Once upon a time"
_ROOT = Path(__file__).parents[2]


def test_a_worker_that_is_gone_before_loading_is_named(start_worker: StartWorker) -> None:
    workers = [start_worker(name) for name in ("one", "two")]
    workers[1].kill()
    workers[1].stop()
    with pytest.raises(WorkerLostError, match=workers[1].address):
        open_mesh(workers)


def test_a_worker_that_drops_the_session_under_way_is_given_it_again(start_worker: StartWorker) -> None:
    workers = [start_worker(name) for name in ("one", "two")]

    async def unload() -> None:
        client = WorkerClient(workers[1].address, PLAIN)
        (stage,) = (await client.describe()).loaded
        assert await client.unload(stage.session_id)
        await client.close()

    with open_mesh(workers) as mesh:
        plan = mesh.plan
        request = mesh.generate(PROMPT, sampling=endless(mesh), max_tokens=200)
        next(request)
        asyncio.run(unload())
        assert request.wait().usage.completion_tokens == 200
        (recovered,) = mesh.recovered
        assert isinstance(recovered.reason, WorkerError)
        assert recovered.reason.worker == "two"
        assert [stage.layers for stage in mesh.plan.stages] == [stage.layers for stage in plan.stages]


def test_a_frame_that_a_worker_refuses_is_our_fault_and_ends_the_session(
    workers: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode_wrongly(frame: PlannedFrame, session_id: str, epoch: int) -> frame_pb2.FeedRequest:
        request = encode_frame(frame, session_id, epoch)
        request.frame.number += frame.number == 3
        return request

    monkeypatch.setattr(line, "encode_frame", encode_wrongly)
    with open_mesh(workers[:2]) as mesh:
        request = mesh.generate(PROMPT, sampling=endless(mesh))
        with pytest.raises(FrameRefusedError, match="frame"):
            request.wait()
        with pytest.raises(FrameRefusedError):
            mesh.generate(PROMPT)
        assert mesh.recovered == ()


def test_closing_ends_what_runs_and_leaves_no_thread_no_process_and_no_connection() -> None:
    me = psutil.Process()
    before = {child.pid for child in me.children()}
    mesh = Mesh.open("demo", discover=False, local_workers=2, context=N_CTX)
    workers = {child.pid for child in me.children()} - before
    assert len(workers) == 2
    request = mesh.generate(PROMPT, sampling=endless(mesh))
    next(request)
    mesh.close()
    with pytest.raises(ClosedError):
        request.wait()
    with pytest.raises(ClosedError):
        mesh.generate(PROMPT)
    mesh.close()
    assert not workers & {child.pid for child in me.children()}
    assert "caravan-mesh" not in {thread.name for thread in threading.enumerate()}
    ports = {int(stage.address.rpartition(":")[2]) for stage in mesh.plan.stages}
    assert not [c for c in me.net_connections("tcp") if c.raddr and c.raddr.port in ports]


def test_a_mesh_that_is_dropped_closes_itself() -> None:
    before = set(psutil.Process().children())
    mesh = Mesh.open("demo", discover=False, local_workers=1, context=N_CTX)
    (worker,) = set(psutil.Process().children()) - before
    del mesh
    worker.wait(60)


def test_without_workers_and_without_leave_to_start_some_it_says_what_to_do() -> None:
    with pytest.raises(NoWorkersError, match=r"start one with `caravan worker`"):
        Mesh.open("demo", discover=False)


def test_progress_tells_that_workers_are_started_and_how_far_each_has_loaded() -> None:
    events: list[LoadEvent] = []
    with Mesh.open("demo", discover=False, local_workers=2, context=N_CTX, on_progress=events.append) as mesh:
        layers = {stage.worker: stage.layers for stage in mesh.plan.stages}
    phases = list(dict.fromkeys(event.phase for event in events))
    assert phases == [
        LoadPhase.STARTING, LoadPhase.PLANNING, LoadPhase.MEASURING, LoadPhase.LOADING, LoadPhase.READY
    ]  # fmt: skip
    assert "no worker was found: starting 2 workers on this machine" in events[0].message
    for worker, its_layers in layers.items():
        loading = [event for event in events if event.worker == worker]
        fractions = [event.fraction for event in loading]
        assert {event.layers for event in loading} == {its_layers}
        assert fractions == sorted(fractions)
        assert (fractions[0], fractions[-1]) == (0.0, 1.0)


def test_a_model_that_does_not_fit_is_refused_with_numbers_and_the_workers_live_on(
    workers: list[WorkerProcess], tmp_path: Path
) -> None:
    giant = write_giant(tmp_path / "giant.gguf")
    addresses = [worker.address for worker in workers[:2]]
    with pytest.raises(DoesNotFitError) as refused:
        Mesh.open(giant, workers=addresses, discover=False, distribution=Distribution.ON)
    assert refused.value.needed_bytes > 4 << 40 > refused.value.available_bytes
    assert "giant needs 4.5 TiB (4.4 TiB of weights, 160 GiB of KV cache" in refused.value.message
    assert all(worker.name in refused.value.message for worker in workers[:2])
    with open_mesh(workers[:2]) as mesh:
        assert mesh.generate(PROMPT, max_tokens=3).wait().usage.completion_tokens == 3


@pytest.mark.parametrize(
    "options",
    [{"parallel": 0}, {"parallel": 100_000}, {"context": 0}, {"batch": 2, "parallel": 4}, {"kv_type_k": "f17"}],
)
def test_options_that_cannot_be_are_refused(workers: list[WorkerProcess], options: dict[str, object]) -> None:
    with pytest.raises(PlanError):
        open_mesh(workers[:1], **options)


def test_manual_layer_ranges_are_what_is_loaded(workers: list[WorkerProcess]) -> None:
    ranges = [LayerRange(0, 1), LayerRange(1, 6), LayerRange(6, 8)]
    with open_mesh(workers, layer_ranges=ranges) as mesh:
        assert [stage.layers for stage in mesh.plan.stages] == ranges
        assert [stage.worker for stage in mesh.plan.stages] == [worker.name for worker in workers]
        assert mesh.generate(PROMPT, max_tokens=3).wait().usage.completion_tokens == 3


def test_a_file_that_is_no_model_is_refused_before_anything_starts(tmp_path: Path, demo_path: Path) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("this is no model")
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(demo_path.read_bytes()[:100_000])
    for path in (text, torn):
        with pytest.raises(ModelError, match=path.name):
            Mesh.open(path, discover=False, local_workers=1)
    with pytest.raises(ModelNotFoundError):
        Mesh.open(tmp_path / "missing.gguf", discover=False, local_workers=1)


_SCRIPT = """
import json, sys
import psutil
from coordinator import Mesh
with Mesh.open("demo", discover=False, local_workers=2, context=512) as mesh:
    print(json.dumps([child.pid for child in psutil.Process().children()]), flush=True)
    while True:
        mesh.generate("Once upon a time", max_tokens=100).wait()
"""


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGKILL])
def test_a_program_that_is_stopped_leaves_no_worker_behind(signal_: signal.Signals) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT], cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    workers = [psutil.Process(pid) for pid in json.loads(program.stdout.readline())]
    time.sleep(0.2)
    program.send_signal(signal_)
    _, complaints = program.communicate(timeout=60)
    assert program.returncode != 0
    psutil.wait_procs(workers, timeout=15)
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    if signal_ is signal.SIGINT:
        assert complaints.rstrip().endswith("KeyboardInterrupt"), complaints


def test_an_interrupted_opening_leaves_nothing_behind() -> None:
    main = threading.main_thread().ident
    assert main is not None
    before = set(psutil.Process().children())

    def interrupt(event: object) -> None:
        if getattr(event, "phase", None) is LoadPhase.STARTING:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Mesh.open("demo", discover=False, local_workers=2, context=N_CTX, on_progress=interrupt)
    assert set(psutil.Process().children()) == before
    assert "caravan-mesh" not in {thread.name for thread in threading.enumerate()}
