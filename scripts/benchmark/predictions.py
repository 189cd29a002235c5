# SPDX-License-Identifier: MIT
"""Predicted beside measured tokens per second, for several plans of one model over the same two workers.

    scripts/bench_predictions            three plans, one stream and eight; a few minutes
    scripts/bench_predictions --write    the same, and the table goes into docs/planner.md

The model is the one of scripts/bench_vs_rpc (24 layers, about 350 M parameters, Q8_0), written the first time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

# gRPC tells of every fork otherwise, and workers are started by forking.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from benchmark.model import write_model
from benchmark.report import machine_line, write_between
from benchmark.worker import ON_CPU, started_worker
from coordinator import Distribution, LayerRange, Mesh, SamplingParams
from coordinator.mesh import OpenOptions
from llama_source import ROOT

_PAGE = ROOT / "docs" / "planner.md"
_END_OF_SEQUENCE = 2
_N_STREAMS = 8
_CONTEXT = 256
_PLANS: dict[str, OpenOptions] = {
    "one device alone": {"distribution": Distribution.OFF},
    "both, 12 layers each": {"layer_ranges": (LayerRange(0, 12), LayerRange(12, 24))},
    "both, 4 and 20 layers": {"layer_ranges": (LayerRange(0, 4), LayerRange(4, 24))},
}


def main() -> int:
    """Measures every plan and prints the table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench_predictions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench", help="folder for the model")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each plan (default 5)")
    parser.add_argument("--n-tokens", type=int, default=64, help="tokens of each stream (default 64)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/planner.md")
    options = parser.parse_args()
    model = options.work / "bench-350m-q8_0.gguf"
    if not model.exists():
        options.work.mkdir(parents=True, exist_ok=True)
        print(f"writing {model.name} ...", flush=True)
        write_model(model)
    lines = [
        machine_line(f"{options.rounds} rounds of each; tokens per second of all streams, medians"),
        "",
        "| plan | streams | predicted | measured | predicted to measured |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as cache, workers(Path(cache)) as addresses:
        for label, wishes in _PLANS.items():
            for n_streams in (1, _N_STREAMS):
                given: OpenOptions = {**wishes, "workers": addresses, "parallel": n_streams, "context": _CONTEXT}
                given |= {"discover": False, "predicted": True}
                pairs = [pair(model, given, Path(cache), options.n_tokens) for _ in range(options.rounds)]
                lines.append(row(label, n_streams, pairs))
                print(lines[-1], flush=True)
    print("\n".join(lines))
    if options.write:
        write_between(_PAGE, "bench_predictions", lines)
    return 0


@contextlib.contextmanager
def workers(cache: Path) -> Iterator[list[str]]:
    """Addresses of two workers on one core each, which keep what they measure in that folder."""
    with contextlib.ExitStack() as stack:
        addresses = []
        for number, core in enumerate(sorted(os.sched_getaffinity(0))[:2]):
            kept = {"CARAVAN_CACHE": str(cache)}
            worker = stack.enter_context(started_worker(f"w{number}", *ON_CPU, core=core, environment=kept))
            addresses.append(worker.address)
        yield addresses


def pair(model: Path, options: OpenOptions, cache: Path, n_tokens: int) -> tuple[float, float]:
    """Tokens per second of all streams, predicted from what the workers measure just now, and then measured."""
    for remembered in cache.iterdir():
        shutil.rmtree(remembered)
    with Mesh.open(model, **options) as mesh:
        tokens_per_s(mesh, 8)  # warms up
        assert mesh.plan.prediction is not None
        return mesh.plan.prediction.parallel_tokens_per_s, tokens_per_s(mesh, n_tokens)


def tokens_per_s(mesh: Mesh, n_tokens: int) -> float:
    """Of as many streams as the mesh takes: each gets a token per frame, in the median time between two."""
    sampling = SamplingParams(temperature=0, logit_bias=((_END_OF_SEQUENCE, float("-inf")),))

    def times(number: int) -> list[float]:
        prompt = [1, 300 + number]
        return [time.perf_counter() for _ in mesh.generate(prompt, sampling=sampling, max_tokens=n_tokens)]

    with ThreadPoolExecutor(mesh.parallel) as streams:
        all_times = list(streams.map(times, range(mesh.parallel)))
    intervals = [after - before for own in all_times for before, after in pairwise(own)]
    return mesh.parallel / statistics.median(intervals)


def row(label: str, n_streams: int, pairs: Sequence[tuple[float, float]]) -> str:
    """A line of the table: medians, the ratio's too."""
    predicted, measured = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratio = statistics.median(prediction / measurement for prediction, measurement in pairs)
    return f"| {label} | {n_streams} | {predicted:.1f} | {measured:.1f} | {ratio:.2f} |"


if __name__ == "__main__":
    sys.exit(main())
