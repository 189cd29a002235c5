# SPDX-License-Identifier: MIT
"""The two that are compared: a Caravan line over two one-core workers, and llama.cpp over two one-core RPC servers.

Each measures the same two things: prefill of a prompt and decode of one stream, in tokens per second.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmark.model import Shape
from benchmark.processes import delayed, free_port, process, wait_for_port
from coordinator import LayerRange, Mesh, SamplingParams
from native import FlashAttention

_N_LAYER = Shape().n_layer
_HALVES = (LayerRange(0, _N_LAYER // 2), LayerRange(_N_LAYER // 2, _N_LAYER))
# A prompt short enough that the decode measurement starts, as llama-bench's does, from an empty cache.
_DECODE_PROMPT = [1, 300]
_FIRST_WORD, _END_OF_SEQUENCE = 300, 2


@dataclass(frozen=True)
class Load:
    """What is measured."""

    n_prompt: int
    n_decode: int
    cores: tuple[int, ...]
    delay_ms: float


@dataclass(frozen=True)
class Sample:
    """Tokens per second of one round."""

    prefill: float
    decode: float


class Peer(Protocol):
    """One side of the comparison, ready to run."""

    def round(self) -> Sample:
        """Measures once."""


class CaravanPeer:
    """Our Python API over an open mesh."""

    def __init__(self, mesh: Mesh, load: Load) -> None:
        self._mesh = mesh
        self._load = load

    def round(self) -> Sample:
        """One prefill of n_prompt tokens, one decode of n_decode."""
        prompt = [_FIRST_WORD + 7 * i % 1000 for i in range(self._load.n_prompt)]
        prefill_s = self._times(prompt, 1)[0]
        times = self._times(_DECODE_PROMPT, self._load.n_decode + 1)
        return Sample(self._load.n_prompt / prefill_s, self._load.n_decode / (times[-1] - times[0]))

    def _times(self, prompt: Sequence[int], n_tokens: int) -> list[float]:
        """Seconds from the start to each token."""
        sampling = SamplingParams(temperature=0, logit_bias=((_END_OF_SEQUENCE, float("-inf")),))
        start = time.perf_counter()
        with contextlib.closing(self._mesh.generate(prompt, sampling=sampling, max_tokens=n_tokens)) as tokens:
            return [time.perf_counter() - start for _ in tokens]


@contextlib.contextmanager
def caravan(model: Path, load: Load) -> Iterator[CaravanPeer]:
    """A worker per core, each reached (by the coordinator and by its neighbour) over a delayed link."""
    with contextlib.ExitStack() as stack:
        addresses = []
        for number, core in enumerate(load.cores):
            command = [sys.executable, "-m", "worker", "--json", "--no-mdns", "--threads", "1", "--name", f"w{number}"]
            command += ["--device", "CPU", "--parent-pid", str(os.getpid())]
            worker = stack.enter_context(process(command, core=core))
            assert worker.stdout is not None
            port = int(json.loads(worker.stdout.readline())["address"].rsplit(":", 1)[1])
            addresses.append(f"127.0.0.1:{stack.enter_context(delayed(port, load.delay_ms))}")
        mesh = stack.enter_context(
            Mesh.open(
                model,
                workers=addresses,
                discover=False,
                layer_ranges=_HALVES,
                context=load.n_prompt + load.n_decode,
                parallel=1,
                flash_attention=FlashAttention.AUTO,  # as llama-bench has it
            )
        )
        yield CaravanPeer(mesh, load)


class RpcPeer:
    """llama-bench over llama.cpp's RPC backend."""

    def __init__(self, program: Path, model: Path, addresses: Sequence[str], load: Load) -> None:
        devices = "/".join(f"RPC{i}" for i in range(len(addresses)))
        self._command = [
            str(program), "-m", str(model), "--rpc", ",".join(addresses), "-dev", devices, "-ngl", "99", "-t", "1",
            "-p", str(load.n_prompt), "-n", str(load.n_decode), "-r", "1", "-o", "json",
        ]  # fmt: skip

    def round(self) -> Sample:
        """One run of llama-bench, its own warm-up before each measurement."""
        done = subprocess.run(self._command, capture_output=True, text=True, check=True)
        speeds = {result["n_prompt"] > 0: float(result["avg_ts"]) for result in json.loads(done.stdout)}
        return Sample(prefill=speeds[True], decode=speeds[False])


@contextlib.contextmanager
def rpc(programs: Path, model: Path, load: Load) -> Iterator[RpcPeer]:
    """An RPC server per core, with its cache on so that rounds after the first do not send the weights again."""
    with contextlib.ExitStack() as stack:
        addresses = []
        for core in load.cores:
            port = free_port()
            command = [str(programs / "ggml-rpc-server"), "-p", str(port), "-t", "1", "-c"]
            cache = {"LLAMA_CACHE": str(model.parent / "rpc-cache")}
            stack.enter_context(process(command, core=core, environment=cache))
            wait_for_port(port)
            addresses.append(f"127.0.0.1:{stack.enter_context(delayed(port, load.delay_ms))}")
        yield RpcPeer(programs / "llama-bench", model, addresses, load)
