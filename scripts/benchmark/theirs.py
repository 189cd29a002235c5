# SPDX-License-Identifier: MIT
"""The other sides: llama.cpp over its RPC servers on one core each, and llama.cpp in one process on all of those cores.

Measured by llama.cpp's own llama-bench and llama-batched-bench, which are started anew in every round.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.network import Network, Place
from benchmark.processes import free_port, process, wait_for_port
from benchmark.row import Setting

RPC = "llama.cpp RPC"
BOTH_CORES = "both cores in one process"


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp with what it computes on.

    Attributes:
        name: For the table.
        n_threads: Of its own.
        servers: Addresses of RPC servers; none: it computes itself.
    """

    name: str
    setting: Setting
    model: Path
    n_threads: int
    servers: tuple[str, ...] = ()

    def decode(self) -> Mapping[str, float]:
        """Tokens per second of one stream, from an empty cache; llama-bench warms up before."""
        results = self._bench("-p", "0", "-n", str(self.setting.n_decode))
        return {self.name: float(results[0]["avg_ts"])}

    def prefill(self, ubatches: Sequence[int]) -> Mapping[str, float]:
        """Tokens per second of one prompt, by the ubatch."""
        sizes = ",".join(map(str, ubatches))
        results = self._bench("-p", str(self.setting.n_prompt), "-n", "0", "-ub", sizes)
        return {with_ubatch(self.name, int(result["n_ubatch"])): float(result["avg_ts"]) for result in results}

    def decode_many(self, n_streams: int, n_prompt: int) -> Mapping[str, float]:
        """Tokens per second of so many streams, which llama-batched-bench decodes in one batch."""
        n_decode = self.setting.n_decode
        # Sequences have their caches to themselves, each of a multiple of 256 tokens, as ours do.
        n_ctx = n_streams * -(-(n_prompt + n_decode) // 256) * 256
        printed = self._run(
            "llama-batched-bench", "-c", str(n_ctx), "-npp", str(n_prompt), "-ntg", str(n_decode),
            "-npl", str(n_streams), "--output-format", "jsonl", "-fit", "off", between_devices=",",
        )  # fmt: skip
        result = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
        return {self.name: float(result["speed_tg"])}

    def _bench(self, *arguments: str) -> list[dict[str, float]]:
        printed = self._run("llama-bench", "-r", "1", "-o", "json", *arguments, between_devices="/")
        results: list[dict[str, float]] = json.loads(printed)
        return results

    def _run(self, program: str, *arguments: str, between_devices: str) -> str:
        cores = ",".join(map(str, self.setting.cores))
        command = ["taskset", "--cpu-list", cores, str(self.setting.programs / program), "-m", str(self.model)]
        command += ["-t", str(self.n_threads), *arguments]
        if self.servers:
            devices = between_devices.join(f"RPC{number}" for number in range(len(self.servers)))
            command += ["--rpc", ",".join(self.servers), "-dev", devices, "-ngl", "99"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def with_ubatch(name: str, n_ubatch: int) -> str:
    """What a figure is called that was measured with that ubatch."""
    return f"{name}, ubatch {n_ubatch},"


def both_cores(setting: Setting, model: Path) -> LlamaCpp:
    """One process with a thread for each core."""
    return LlamaCpp(BOTH_CORES, setting, model, n_threads=len(setting.cores))


@contextlib.contextmanager
def rpc(setting: Setting, model: Path, *, network: Network, places: Sequence[Place]) -> Iterator[LlamaCpp]:
    """An RPC server per core, with its cache on so that rounds after the first do not send the weights again."""
    with contextlib.ExitStack() as stack:
        addresses = []
        for core, place in zip(setting.cores, places, strict=True):
            port = free_port()
            server = str(setting.programs / "ggml-rpc-server")
            command = [*place.prefix, server, "-H", place.host, "-p", str(port), "-t", "1", "-c"]
            cache = {"LLAMA_CACHE": str(setting.work / "rpc-cache")}
            stack.enter_context(process(command, core=core, environment=cache))
            wait_for_port(place.host, port)
            addresses.append(stack.enter_context(network.address(place, port)))
        yield LlamaCpp(RPC, setting, model, n_threads=1, servers=tuple(addresses))
