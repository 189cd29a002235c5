# SPDX-License-Identifier: MIT
"""Our side: a line over workers on one core each, through the Python API and real gRPC, and what is measured on it.

The mesh lives on a loop in a thread, and so do those who read its streams, as in our HTTP server.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from benchmark.model import Shape
from benchmark.network import Network, Place
from benchmark.row import CARAVAN, Setting
from benchmark.streams import Streams, follow, prompt
from benchmark.worker import ON_CPU, started_worker
from coordinator import AsyncMesh, FlashAttention, LayerRange
from coordinator.frame_log import FrameRecord
from coordinator.loop_thread import LoopThread
from coordinator.mesh import OpenOptions

_WORKER_PORT = 50200
_CELLS = 256
"""llama.cpp gives each sequence a cache of a multiple of so many tokens."""
WITH_OUTPUT = Shape().n_layer + 1
"""llama.cpp counts the output layer as one of those that it spreads over devices: 13 layers, and 11 with it. So it does
with its RPC servers. Source: llama_model::load_tensors in src/llama-model.cpp."""
LEAST_BUSY = "busy share of the less busy stage"
MEDIAN_BEFORE = "median gap before it"
MEDIAN_DURING = "median gap meanwhile"


class OurLine:
    """An open mesh of one line."""

    def __init__(self, mesh: AsyncMesh, thread: LoopThread, setting: Setting) -> None:
        self._mesh = mesh
        self._thread = thread
        self._setting = setting

    def prefill(self) -> Mapping[str, float]:
        """Tokens per second of one long prompt that nothing is cached of."""
        start_s = time.monotonic()
        first_s = self._one(prompt(self._setting.n_prompt, 0), 1)[0]
        return {
            CARAVAN: self._setting.n_prompt / (first_s - start_s),
            LEAST_BUSY: least_busy(self.frames(start_s), first_s - start_s),
        }

    def decode(self) -> Mapping[str, float]:
        """Tokens per second of one stream, from an empty cache, as llama-bench does it."""
        at_s = self._one(prompt(2, 0), self._setting.n_decode + 1)
        return {CARAVAN: self._setting.n_decode / (at_s[-1] - at_s[0])}

    def decode_many(self, n_prompt: int) -> Mapping[str, float]:
        """Tokens per second of as many streams as there are slots, while all of them run."""

        async def run() -> tuple[float, float, int]:
            async with Streams(self._mesh, self._mesh.parallel, n_prompt) as streams:
                start_s, n_before = time.monotonic(), streams.n_tokens
                n_wanted = n_before + self._setting.n_decode * self._mesh.parallel
                await streams.until(lambda: streams.n_tokens >= n_wanted)
                return start_s, time.monotonic(), streams.n_tokens - n_before

        start_s, end_s, n_tokens = self._thread.run(run())
        took_s = end_s - start_s
        return {CARAVAN: n_tokens / took_s, LEAST_BUSY: least_busy(self.frames(start_s, end_s), took_s)}

    def gaps(self) -> Mapping[str, float]:
        """Milliseconds between tokens of the streams of all slots but one, while that one's long prompt is computed."""

        async def run() -> tuple[float, float, Streams]:
            async with Streams(self._mesh, self._mesh.parallel - 1, 2) as streams:
                n_wanted = streams.n_tokens + self._setting.n_decode * len(streams.at_s)
                await streams.until(lambda: streams.n_tokens >= n_wanted)
                submitted_s, at_s = time.monotonic(), list[float]()
                await follow(self._mesh, prompt(self._setting.n_prompt, len(streams.at_s)), 1, at_s)
                return submitted_s, at_s[0], streams

        submitted_s, first_s, streams = self._thread.run(run())
        during = streams.gaps_s(submitted_s, first_s)
        return {
            CARAVAN: 1e3 * statistics.quantiles(during, n=20)[-1],
            MEDIAN_BEFORE: 1e3 * statistics.median(streams.gaps_s(0, submitted_s)),
            MEDIAN_DURING: 1e3 * statistics.median(during),
            "tok/s of the prompt": self._setting.n_prompt / (first_s - submitted_s),
            LEAST_BUSY: least_busy(self.frames(submitted_s, first_s), first_s - submitted_s),
        }

    def cost(self) -> Mapping[str, float]:
        """Milliseconds per hop that a lone stream's frames were neither computed nor waited for a stage."""
        start_s = time.monotonic()
        self._one(prompt(2, 0), self._setting.n_decode + 1)
        frames = [frame for frame in self.frames(start_s) if frame.is_decode and frame.n_tokens == 1]
        n_hops = len(frames[0].stages) + 1
        return {CARAVAN: 1e3 * statistics.median(frame.beside_s for frame in frames) / n_hops}

    def frames(self, start_s: float, end_s: float = float("inf")) -> list[FrameRecord]:
        """Those that came back in that time."""
        log = self._mesh._mesh.lines[0].session.frames
        return self._thread.call(lambda: [frame for frame in log.records if start_s <= frame.received_s <= end_s])

    def _one(self, tokens: Sequence[int], n_tokens: int) -> list[float]:
        """When the tokens of a lone request came."""
        at_s: list[float] = []
        self._thread.run(follow(self._mesh, tokens, n_tokens, at_s))
        return at_s


def least_busy(frames: Sequence[FrameRecord], seconds: float) -> float:
    """The share of those seconds that the stage computed which computed least."""
    return min(map(sum, zip(*(frame.computed_s for frame in frames), strict=True))) / seconds


@contextlib.contextmanager
def caravan(
    setting: Setting,
    model: Path,
    *,
    network: Network,
    places: Sequence[Place],
    context: int,
    parallel: int = 1,
    n_parts: int = Shape().n_layer,
) -> Iterator[OurLine]:
    """A worker per core, each reached (by the coordinator and by its neighbour) over its link.

    Args:
        n_parts: What is cut in equal shares: the layers, or `WITH_OUTPUT` those and the output layer.
    """
    with contextlib.ExitStack() as stack:
        addresses = [stack.enter_context(_worker(number, core, network, place))
                     for number, (core, place) in enumerate(zip(setting.cores, places, strict=True))]  # fmt: skip
        cuts = [-(-n_parts * number // len(addresses)) for number in range(len(addresses))]
        bounds = [*cuts, Shape().n_layer]
        options: OpenOptions = {
            "workers": addresses,
            "insecure_workers": True,
            "discover": False,
            "layer_ranges": [LayerRange(first, end) for first, end in pairwise(bounds)],
            "context": -(-context // _CELLS) * _CELLS,
            "parallel": parallel,
            "flash_attention": FlashAttention.AUTO,  # as llama-bench has it
        }
        thread = LoopThread("benchmark")
        stack.callback(thread.stop)
        mesh = thread.run(AsyncMesh.open(model, **options))
        stack.callback(lambda: thread.run(mesh.close()))
        yield OurLine(mesh, thread, setting)


@contextlib.contextmanager
def _worker(number: int, core: int, network: Network, place: Place) -> Iterator[str]:
    """The address of a worker with one thread."""
    beyond = ("--listen", f"{place.host}:{_WORKER_PORT}") if place.prefix else ()
    with (
        started_worker(f"w{number}", *ON_CPU, *beyond, core=core, prefix=place.prefix) as worker,
        network.address(place, worker.port) as address,
    ):
        yield address
