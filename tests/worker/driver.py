# SPDX-License-Identifier: MIT
"""What the worker's tests drive real workers with: processes, control calls, and a line fed by hand.

The tests play the coordinator. Everything blocks with a timeout; what is started here is ended by the fixtures.
"""

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from numpy.typing import NDArray

from native import read_layout
from protos.caravan.v1 import (
    control_pb2,
    control_pb2_grpc,
    error_pb2,
    frame_pb2,
    frame_pb2_grpc,
)
from protos.contract import EPOCH_METADATA_KEY, SESSION_METADATA_KEY, channel_options
from protos.failures import detail_from_call

ROOT = Path(__file__).parents[2]
CALL_TIMEOUT_S = 60
# As a coordinator that asks for raw logits would.
_LIMIT_BYTES = 64 << 20


def worker_command(*arguments: str) -> list[str]:
    """The command line of a worker, on loopback unless told otherwise: else it would make a cluster."""
    return [sys.executable, "-m", "worker", "--listen", "127.0.0.1:0", *arguments]


class WorkerProcess:
    """A worker that serves, without a supervisor."""

    def __init__(self, *arguments: str, cache: Path | None = None) -> None:
        """Starts it and waits for its ready line; `cache` is its own folder for what can be made again."""
        self.process = subprocess.Popen(
            worker_command("--json", "--parent-pid", str(os.getpid()), *arguments),
            cwd=ROOT,
            env=None if cache is None else {**os.environ, "CARAVAN_CACHE": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, complaint = self.process.communicate(timeout=CALL_TIMEOUT_S)
            raise AssertionError(f"the worker did not start: {complaint}")
        self.ready = json.loads(line)
        self.name: str = self.ready["name"]
        self.address: str = self.ready["address"]
        self.channel = grpc.insecure_channel(self.address, options=channel_options(_LIMIT_BYTES))
        self.control = control_pb2_grpc.ControlServiceStub(self.channel)
        self.line = frame_pb2_grpc.LineServiceStub(self.channel)
        self.was_killed = False

    def stop(self) -> tuple[int, str]:
        """SIGTERM; the exit code and what it wrote to stderr."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.terminate()
        _, complaints = self.process.communicate(timeout=CALL_TIMEOUT_S)
        return self.process.returncode, complaints

    def kill(self) -> None:
        """As a power cut would."""
        self.was_killed = True
        self.process.kill()
        self.process.wait(CALL_TIMEOUT_S)

    def health(self) -> control_pb2.HealthResponse:
        """What it does right now."""
        return self.control.Health(control_pb2.HealthRequest(), timeout=CALL_TIMEOUT_S)

    def load(self, request: control_pb2.LoadRequest) -> list[control_pb2.LoadResponse]:
        """All messages of a Load."""
        return list(self.control.Load(request, timeout=CALL_TIMEOUT_S))

    def unload(self, session_id: str) -> bool:
        """Drops a session; whether it was there."""
        request = control_pb2.UnloadRequest(session_id=session_id)
        return self.control.Unload(request, timeout=CALL_TIMEOUT_S).was_loaded


def context_params(**changes: object) -> control_pb2.ContextParams:
    """A small context of four sequences."""
    params = control_pb2.ContextParams(
        n_ctx_seq=256,
        n_seq_max=4,
        n_batch=64,
        n_ubatch=64,
        kv_type_k="f16",
        kv_type_v="f16",
        flash_attention=control_pb2.FLASH_ATTENTION_AUTO,
    )
    for name, value in changes.items():
        setattr(params, name, value)
    return params


def stage_spec(
    model: Path, start: int, end: int, context: control_pb2.ContextParams | None = None
) -> control_pb2.StageSpec:
    """Layers [start, end) of a model file."""
    return control_pb2.StageSpec(
        model=control_pb2.ModelReference(path=str(model), identity=read_layout(model).identity),
        layer_start=start,
        layer_end=end,
        context=context or context_params(),
    )


def load_request(
    stage: control_pb2.StageSpec,
    *,
    session_id: str = "s",
    epoch: int = 1,
    next_worker: WorkerProcess | None = None,
    first_worker: WorkerProcess | None = None,
) -> control_pb2.LoadRequest:
    """A Load of that stage, with the worker after it, or the one that tokens go back to."""
    return control_pb2.LoadRequest(
        session_id=session_id,
        epoch=epoch,
        stage=stage,
        next_address="" if next_worker is None else next_worker.address,
        next_worker="" if next_worker is None else next_worker.name,
        first_address="" if first_worker is None else first_worker.address,
        first_worker="" if first_worker is None else first_worker.name,
    )


def stream_metadata(session_id: str = "s", epoch: int = 1) -> tuple[tuple[str, str], ...]:
    """Metadata of Feed and Collect."""
    return ((SESSION_METADATA_KEY, session_id), (EPOCH_METADATA_KEY, str(epoch)))


def failure(call: grpc.RpcError | grpc.Call) -> tuple[grpc.StatusCode, error_pb2.ErrorDetail]:
    """How a call failed; the detail is always there."""
    assert isinstance(call, grpc.Call)
    detail = detail_from_call(call)
    assert detail is not None, f"{call.code()}: {call.details()} has no detail"
    return call.code(), detail


@dataclass
class FedStream:
    """An open Feed, with the Collect of the last worker if there is one."""

    first: WorkerProcess
    last: WorkerProcess | None
    session_id: str = "s"
    epoch: int = 1
    n_fed: int = 0
    _frames: "queue.SimpleQueue[frame_pb2.FeedRequest | None]" = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        metadata = stream_metadata(self.session_id, self.epoch)
        self.results: Iterator[frame_pb2.CollectResponse] | None = None
        if self.last is not None:
            self.collect = self.last.line.Collect(frame_pb2.CollectRequest(), metadata=metadata)
            # The Collect must stand before the first frame.
            self.is_collecting = bool(self.collect.initial_metadata())
            self.results = iter(self.collect)
        self.feed = self.first.line.Feed.future(iter(self._frames.get, None), metadata=metadata)
        self.is_connected = bool(self.feed.initial_metadata())

    def send(self, frame: frame_pb2.Frame) -> None:
        """Feeds a frame as it is."""
        self._frames.put(frame_pb2.FeedRequest(frame=frame))

    def call_void(self, numbers: Sequence[int]) -> None:
        """Says that these frames need not be computed."""
        self._frames.put(frame_pb2.FeedRequest(void_frames=frame_pb2.VoidFrames(numbers=numbers)))

    def frame(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        seq_ids: Sequence[int],
        outputs: Sequence[frame_pb2.OutputRow] = (),
        **more: object,
    ) -> frame_pb2.Frame:
        """The next frame in order."""
        self.n_fed += 1
        return frame_pb2.Frame(
            session_id=self.session_id,
            epoch=self.epoch,
            number=self.n_fed,
            tokens=tokens,
            positions=positions,
            seq_ids=seq_ids,
            outputs=outputs,
            **more,  # type: ignore[arg-type]
        )

    def step(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        seq_ids: Sequence[int],
        outputs: Sequence[frame_pb2.OutputRow] = (),
        **more: object,
    ) -> frame_pb2.Result:
        """Feeds a frame and waits for its result."""
        self.send(self.frame(tokens, positions, seq_ids, outputs, **more))
        return self.result()

    def result(self) -> frame_pb2.Result:
        """The next result."""
        assert self.results is not None
        return next(self.results).result

    def half_close(self) -> None:
        """Nothing more comes."""
        self._frames.put(None)

    def finish(self) -> int:
        """Ends it well; how many frames the first stage finished."""
        self.half_close()
        return self.feed.result(timeout=CALL_TIMEOUT_S).n_frames

    def cancel(self) -> None:
        """Goes away."""
        self.feed.cancel()
        if self.last is not None:
            self.collect.cancel()
        self._frames.put(None)


def row_logits(row: frame_pb2.RowResult) -> NDArray[np.float32]:
    """A row's raw logits."""
    return np.frombuffer(row.logits, dtype="<f4")


def want_logits(row: int) -> frame_pb2.OutputRow:
    """Asks for the raw logits of a row."""
    return frame_pb2.OutputRow(row=row, logits=True)


def want_token(row: int) -> frame_pb2.OutputRow:
    """Asks for a sampled token."""
    return frame_pb2.OutputRow(row=row, sample=True)


def greedy_sampler(seq_id: int, **changes: object) -> frame_pb2.SamplerOperation:
    """Opens a sampler that takes the likeliest token, or one with other parameters."""
    params = frame_pb2.SamplingParams(temperature=0.0, top_p=1.0, typical_p=1.0, repeat_penalty=1.0, repeat_last_n=0)
    history = {key: changes.pop(key) for key in ("prompt_tokens", "generated_tokens") if key in changes}
    for name, value in changes.items():
        setattr(params, name, value)
    return frame_pb2.SamplerOperation(
        open=frame_pb2.SamplerOpen(seq_id=seq_id, params=params, **history)  # type: ignore[arg-type]
    )
