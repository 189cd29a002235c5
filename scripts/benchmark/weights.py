# SPDX-License-Identifier: MIT
"""How fast weights move from one giver to two workers that load at once, over loopback, beside what the machine moves.

    scripts/bench_weights            a model of 2 GB, three rounds; about a minute
    scripts/bench_weights --write    the same, and the table goes into docs/benchmarks.md

The giver is a process of its own that sends files with sendfile and knows the hashes, as a coordinator does that gave
the model before. The ceiling is iperf3 with two streams, where it is installed, else a process that sends a file with
sendfile to two that receive and throw away.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# gRPC tells of every fork otherwise, and workers are started by forking.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import psutil

from benchmark.model import Shape, write_model
from benchmark.processes import free_port, process, wait_for_port
from benchmark.report import machine_line, write_between
from benchmark.worker import started_worker
from llama_source import ROOT
from native import read_layout
from protos.caravan.v1 import control_pb2, control_pb2_grpc
from protos.channels import PLAIN, Channels
from protos.cluster import create_cluster
from protos.secret_file import IDENTITY_VARIABLE

_PAGE = ROOT / "docs" / "benchmarks.md"
_N_WORKERS = 2
# About 2 GB, most of it in tensors of 24 MB.
_SHAPE = Shape(n_layer=24, n_embd=2048, n_ff=11264, n_head=16, n_head_kv=8, n_vocab=32000)
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Load:
    """Both workers' loads, side by side: bytes that came, in how many seconds; until all was loaded; CPU seconds."""

    n_bytes: int
    seconds: float
    loaded_s: float
    workers_cpu_s: float
    giver_cpu_s: float


def main() -> int:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench_weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench", help="folder for model and stores")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default 3)")
    parser.add_argument("--members", action="store_true", help="of a cluster: encrypted, into a table of its own")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as identity:
        os.environ[IDENTITY_VARIABLE] = identity
        return measure(options, Channels(create_cluster()[0]) if options.members else PLAIN)


def measure(options: argparse.Namespace, channels: Channels) -> int:
    """Rounds, and the table."""
    model = options.work / "bench-weights-q8_0.gguf"
    if not model.exists():
        options.work.mkdir(parents=True, exist_ok=True)
        print(f"writing {model.name} ...", flush=True)
        write_model(model, _SHAPE)
    name, ceiling = ("iperf3", iperf3) if shutil.which("iperf3") else ("sendfile to /dev/null", sendfile)
    first: list[Load] = []
    second: list[Load] = []
    ceilings: list[float] = []
    with giver(model, channels) as given:
        for _ in range(options.rounds):
            ceilings.append(ceiling(model))
            touch_memory(3 * model.stat().st_size)
            with tempfile.TemporaryDirectory(dir=options.work) as folder:
                for loads in (first, second):
                    loads.append(load(model, Path(folder), given, channels))
            print(f"{rate(first[-1]) / 1e9:.2f} of {ceilings[-1] / 1e9:.2f} GB/s", flush=True)
    lines = table(first, second, ceilings, name, options.rounds)
    print("\n".join(lines))
    if options.write:
        write_between(_PAGE, "bench_weights_members" if channels.is_secure else "bench_weights", lines)
    return 0


def rate(load: Load) -> float:
    """Bytes per second."""
    return load.n_bytes / load.seconds


def table(
    first: Sequence[Load], second: Sequence[Load], ceilings: Sequence[float], ceiling: str, n_rounds: int
) -> list[str]:
    """For the page."""

    def row(label: str, values: Sequence[float], unit: str) -> str:
        return f"| {label} | {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}) {unit} |"

    n_gb = first[0].n_bytes / 1e9
    return [
        machine_line(f"{n_rounds} rounds, {n_gb:.1f} GB to two workers; medians with the lowest and highest round"),
        "",
        "| | |",
        "|---|---|",
        row(
            "weights to both workers, first byte asked to last byte given", [rate(each) / 1e9 for each in first], "GB/s"
        ),
        row(f"{ceiling}, two streams", [each / 1e9 for each in ceilings], "GB/s"),
        row("both loaded, weights fetched", [each.loaded_s for each in first], "s"),
        row("both loaded, weights in their stores", [each.loaded_s for each in second], "s"),
        row("CPU of the workers, fetched, verified and loaded", [each.workers_cpu_s / n_gb for each in first], "s/GB"),
        row("CPU of the workers, verified and loaded", [each.workers_cpu_s / n_gb for each in second], "s/GB"),
        row("CPU of the giver", [each.giver_cpu_s / n_gb for each in first], "s/GB"),
    ]


@contextlib.contextmanager
def giver(model: Path, channels: Channels) -> Iterator[subprocess.Popen[str]]:
    """The giver's process, ready; the file is in the page cache then."""
    options = ["--member"] if channels.is_secure else []
    with process([sys.executable, "-m", "benchmark.giver", str(model), *options]) as given:
        assert given.stdout is not None
        given.stdout.readline()
        yield given


def load(model: Path, folder: Path, given: subprocess.Popen[str], channels: Channels) -> Load:
    """Two new workers, with the stores in that folder, load half the model each, at once."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(worker(folder / f"w{number}", channels)) for number in range(_N_WORKERS)]
        with ThreadPoolExecutor() as threads:
            for each in workers:
                offer(each, model)
            cpu_s = [used_cpu_s(pid) for pid in (*(each.pid for each in workers), given.pid)]
            started = time.monotonic()
            list(threads.map(lambda number: load_half(workers[number], model, number, given), range(_N_WORKERS)))
            loaded_s = time.monotonic() - started
            after_s = [used_cpu_s(pid) for pid in (*(each.pid for each in workers), given.pid)]
        told = say(given, "report")
        used_s = [after - before for before, after in zip(cpu_s, after_s, strict=True)]
        return Load(told["n_bytes"], told["seconds"], loaded_s, sum(used_s[:-1]), used_s[-1])


@dataclass(frozen=True, slots=True)
class Worker:
    """One that serves."""

    pid: int
    host: str
    weights_port: int
    control: control_pb2_grpc.ControlServiceStub


@contextlib.contextmanager
def worker(store: Path, channels: Channels) -> Iterator[Worker]:
    """A worker whose store is below that folder."""
    with (
        started_worker(store.name, environment={"CARAVAN_CACHE": str(store)}, is_member=channels.is_secure) as started,
        channels.channel(started.address, ()) as channel,
    ):
        control = control_pb2_grpc.ControlServiceStub(channel)
        port = control.Describe(control_pb2.DescribeRequest()).weights_port
        yield Worker(started.pid, started.address.rsplit(":", 1)[0], port, control)


def touch_memory(n_bytes: int) -> None:
    """Has the machine ready so much memory: one that is virtual may give what is free back to its host, and getting it
    again takes longer than all that is measured here."""
    program = f"import mmap; memory = mmap.mmap(-1, {n_bytes}); memory[::4096] = bytes(len(range(0, {n_bytes}, 4096)))"
    subprocess.run([sys.executable, "-c", program], check=True)


def offer(to: Worker, model: Path) -> None:
    """Makes the model known, header and all."""
    layout, n_header = read_layout(model), read_layout(model).header_bytes[0]
    part = control_pb2.ModelPart(file_name=model.name, n_bytes=model.stat().st_size, n_header_bytes=n_header)
    request = control_pb2.OfferRequest(model=reference(layout.identity), parts=[part])
    if to.control.Offer(request).has_header:
        return
    with model.open("rb") as file:
        header = file.read(n_header)
    chunks = [header[at : at + _CHUNK_BYTES] for at in range(0, n_header, _CHUNK_BYTES)]
    to.control.PutHeader(
        control_pb2.PutHeaderRequest(identity="" if number else layout.identity, chunk=chunk)
        for number, chunk in enumerate(chunks)
    )


def load_half(to: Worker, model: Path, number: int, given: subprocess.Popen[str]) -> None:
    """Loads the first or the second half of the layers."""
    layout = read_layout(model)
    half = layout.n_layer // 2
    stage = control_pb2.StageSpec(
        model=reference(layout.identity),
        layer_start=number * half,
        layer_end=(number + 1) * half,
        context=control_pb2.ContextParams(
            n_ctx_seq=256, n_seq_max=1, n_batch=64, n_ubatch=64, kv_type_k="f16", kv_type_v="f16",
            flash_attention=control_pb2.FLASH_ATTENTION_AUTO,
        ),
    )  # fmt: skip
    request = control_pb2.LoadRequest(session_id=f"s{number}", epoch=1, stage=stage)
    request.sources.coordinator_gives = True
    for message in to.control.Load(request):
        if message.HasField("needs_coordinator"):
            assert given.stdin is not None
            n_connections = message.needs_coordinator.n_connections
            given.stdin.write(f"{to.host} {to.weights_port} s{number} 1 {n_connections}\n")
            given.stdin.flush()


def reference(identity: str) -> control_pb2.ModelReference:
    """To the model, where no worker finds it."""
    return control_pb2.ModelReference(path="/nowhere/model.gguf", identity=identity)


def say(to: subprocess.Popen[str], line: str) -> dict[str, int]:
    """What a process answers to a line."""
    assert to.stdin is not None
    assert to.stdout is not None
    to.stdin.write(f"{line}\n")
    to.stdin.flush()
    answer: dict[str, int] = json.loads(to.stdout.readline())
    return answer


def used_cpu_s(pid: int) -> float:
    """Of a process, since it started."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def iperf3(_model: Path) -> float:
    """Bytes per second over loopback, in two streams."""
    port = free_port()
    with process(["iperf3", "--server", "--port", str(port)]):
        wait_for_port("127.0.0.1", port)
        command = ["iperf3", "--client", "127.0.0.1", "--port", str(port), "--time", "3", "--parallel", "2", "--json"]
        while True:
            told = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
            if "sum_received" in told["end"]:
                return float(told["end"]["sum_received"]["bits_per_second"]) / 8
            # It takes the one that looked whether it listens for a client, for a moment.
            time.sleep(0.1)


def sendfile(model: Path) -> float:
    """Bytes per second of a file to two processes that throw it away."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        receive = f"""
import socket
with socket.create_connection(("127.0.0.1", {listener.getsockname()[1]})) as connection:
    buffer = bytearray({_CHUNK_BYTES})
    while connection.recv_into(buffer):
        pass
"""
        for _ in range(_N_WORKERS):
            stack.enter_context(process([sys.executable, "-c", receive]))
        connections = [stack.enter_context(listener.accept()[0]) for _ in range(_N_WORKERS)]
        files = [stack.enter_context(model.open("rb")) for _ in connections]
        started = time.monotonic()
        with ThreadPoolExecutor() as threads:
            n_bytes = sum(threads.map(lambda number: connections[number].sendfile(files[number]), range(_N_WORKERS)))
        return n_bytes / (time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(main())
