# SPDX-License-Identifier: MIT
"""What HTTP costs: streams over it, beside the same through the Python API, of one mesh, in turns.

    scripts/bench_http            a table; about five minutes, with nothing else running
    scripts/bench_http --write    the same, and it goes into docs/benchmarks.md

Two workers of one core each; the model of the other benchmarks, and for first bytes the demo model. Server and mesh are
in this process, as in `caravan serve`; the client is another process, which reads and looks for the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

# gRPC tells of every fork otherwise.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from benchmark.model import write_model
from benchmark.processes import process
from benchmark.report import machine_line, write_between
from benchmark.row import CARAVAN, Aim, Contender, Row, Setting, measure, table_lines
from benchmark.streams import follow
from benchmark.worker import ON_CPU, started_worker
from coordinator import AsyncMesh, LayerRange
from coordinator.http.access import Access
from coordinator.http.server import HttpServer, ListenAddress, bind
from coordinator.http.service import Service
from coordinator.loop_thread import LoopThread
from coordinator.mesh import OpenOptions
from coordinator.resident import KnownModel
from llama_source import ROOT

_PAGE = ROOT / "docs" / "benchmarks.md"
_API = "Python API"
_CPU, _CPU_API = "processor time of the server for a token, µs", "the same of the Python API, µs"
_DEMO = ROOT / "coordinator" / "models" / "demo.gguf"
_DEMO_LAYERS = (4, 4)
_N_STREAMS = 16
_N_PROMPT = 16
_N_FIRST = 20
"""First tokens of a round."""


class Server:
    """An open mesh, over HTTP and without.

    Args:
        client: Runs `http_client`.
    """

    def __init__(self, mesh: AsyncMesh, thread: LoopThread, port: int, client: subprocess.Popen[str]) -> None:
        self._mesh = mesh
        self._thread = thread
        self._port = port
        self._client = client

    def streams_over_http(self, n_tokens: int) -> Mapping[str, float]:
        """Tokens per second of all streams, from the first request to the last one's end."""
        began_s = time.process_time()
        took_s = self._asked([_body(number, n_tokens) for number in range(_N_STREAMS)], only_first_byte=False)
        return _figures(CARAVAN, _CPU, n_tokens, took_s, time.process_time() - began_s)

    def streams(self, n_tokens: int) -> Mapping[str, float]:
        """The same through the Python API, on the mesh's own loop."""

        async def run() -> float:
            start_s = time.perf_counter()
            prompts = map(_prompt, range(_N_STREAMS))
            await asyncio.gather(*(follow(self._mesh, tokens, n_tokens, []) for tokens in prompts))
            return time.perf_counter() - start_s

        began_s = time.process_time()
        took_s = self._thread.run(run())
        return _figures(_API, _CPU_API, n_tokens, took_s, time.process_time() - began_s)

    def first_bytes(self) -> Mapping[str, float]:
        """Milliseconds from a request to its first byte beyond those to its first token without HTTP, and both."""
        over_http_s, without_s = [], []
        for number in range(_N_FIRST):
            over_http_s.append(self._asked([_body(number, 2)], only_first_byte=True))
            self._until_idle()
            without_s.append(self._thread.run(self._first_token(number)))
            self._until_idle()
        with_ms, without_ms = (1e3 * statistics.median(each) for each in (over_http_s, without_s))
        return {CARAVAN: with_ms - without_ms, "first byte": with_ms, "first token of the Python API": without_ms}

    async def _first_token(self, number: int) -> float:
        at_s: list[float] = []
        start_s = time.monotonic()
        await follow(self._mesh, _prompt(number), 2, at_s)
        return at_s[0] - start_s

    def _until_idle(self) -> None:
        while self._thread.call(lambda: self._mesh.n_running):
            time.sleep(0.005)

    def _asked(self, bodies: Sequence[Mapping[str, object]], *, only_first_byte: bool) -> float:
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        task = {"port": self._port, "bodies": bodies, "only_first_byte": only_first_byte}
        self._client.stdin.write(json.dumps(task) + "\n")
        self._client.stdin.flush()
        return float(self._client.stdout.readline())


def _figures(speed: str, cpu: str, n_tokens: int, took_s: float, cpu_s: float) -> Mapping[str, float]:
    n_all = _N_STREAMS * n_tokens
    return {speed: n_all / took_s, cpu: 1e6 * cpu_s / n_all}


def _prompt(number: int) -> list[int]:
    """Tokens that both models have."""
    return [1, *(30 + (7 * place + 13 * number) % 200 for place in range(_N_PROMPT - 1))]


def _body(number: int, n_tokens: int) -> dict[str, object]:
    """What `follow` asks for, over HTTP."""
    greedy = {"temperature": 0, "logit_bias": [[2, False]], "cache_prompt": False}
    return {"prompt": _prompt(number), "max_tokens": n_tokens, "stream": True, **greedy}


@contextlib.contextmanager
def _server(model: Path, cores: Sequence[int], context: int, n_layers: tuple[int, int]) -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(started_worker(f"w{core}", *ON_CPU, core=core)) for core in cores]
        client = stack.enter_context(process([sys.executable, str(Path(__file__).with_name("http_client.py"))]))
        thread = LoopThread("benchmark")
        stack.callback(thread.stop)
        options = OpenOptions(
            workers=[worker.address for worker in workers],
            insecure_workers=True,
            discover=False,
            layer_ranges=[LayerRange(0, n_layers[0]), LayerRange(n_layers[0], sum(n_layers))],
            context=context,
            parallel=_N_STREAMS,
        )
        listening = stack.enter_context(bind(ListenAddress("127.0.0.1", 0)))
        service = Service([KnownModel("bench", model, options)])
        stack.callback(lambda: thread.run(service.catalogue.close()))
        mesh = thread.run(service.start("bench"))
        service.begin()
        server = HttpServer(service, listening, Access())
        serving = thread.call(lambda: thread.loop.create_task(server.run()))
        stack.callback(lambda: thread.run(_drained(server, serving)))
        yield Server(mesh, thread, listening.getsockname()[1], client)


async def _drained(server: HttpServer, serving: asyncio.Task[None]) -> None:
    server.drain()
    await serving


@contextlib.contextmanager
def _streams(setting: Setting) -> Iterator[Sequence[Contender]]:
    n_layers = 13, 11  # the output layer counts as one
    with _server(_model(setting.work), setting.cores, _N_PROMPT + setting.n_decode, n_layers) as server:
        yield [partial(server.streams_over_http, setting.n_decode), partial(server.streams, setting.n_decode)]


@contextlib.contextmanager
def _first_bytes(setting: Setting) -> Iterator[Sequence[Contender]]:
    """With the demo model, whose first token takes little, so that what HTTP adds can be seen beside it."""
    with _server(_DEMO, setting.cores, 64, _DEMO_LAYERS) as server:
        yield [server.first_bytes]


ROWS = (
    Row("streams", f"{_N_STREAMS} streams over HTTP, tok/s", _streams, (Aim((_API,), at_least=0.97),)),
    Row("first", "time to first byte that HTTP adds, ms", _first_bytes, (Aim(at_most=5),)),
)


def _model(work: Path) -> Path:
    path = work / "bench-350m-q8_0.gguf"
    if not path.exists():
        print(f"writing {path.name} ...", flush=True)
        work.mkdir(parents=True, exist_ok=True)
        write_model(path)
    return path


def main() -> int:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench_http", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench", help="folder for the model")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each (default 9)")
    parser.add_argument("--n-decode", type=int, default=96, help="tokens of each stream (default 96)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    cores = tuple(sorted(os.sched_getaffinity(0)))[:2]
    setting = Setting(options.work, Path(), cores, _N_PROMPT, options.n_decode)
    lines = [
        machine_line(f"{options.rounds} rounds of each in turns; {options.n_decode} tokens of each stream"),
        "",
        "| what | over HTTP | beside it | ratio | aim | |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        lines += table_lines(row, measure(row, setting, options.rounds, lambda line: print(line, flush=True)))
    print("\n".join(lines))
    if options.write:
        write_between(_PAGE, "bench_http", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
