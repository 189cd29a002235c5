# SPDX-License-Identifier: MIT
"""How long it takes to the first token: a first start, whose weights have to travel to two workers over 1 Gbit/s, and a
second one, with the stages still loaded and without.

    scripts/bench_starts            five rounds of each; about two minutes
    scripts/bench_starts --write    the same, and the table goes into docs/benchmarks.md

Coordinator and workers are on hosts of their own: network namespaces, which need the right to make them, with links
limited by tc tbf in both directions. The model has about 350 M parameters, Q8_0, and only the coordinator has its file.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

# gRPC tells of every fork otherwise.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from benchmark.model import write_model
from benchmark.report import machine_line, write_between
from llama_source import ROOT
from tests.netns.hosts import hosts
from tests.netns.mesh import HostWorker, coordinate

_PAGE = ROOT / "docs" / "benchmarks.md"
_N_WORKERS = 2
_RANGES = "0-11,12-23"
_KEPT, _NOT_KEPT = "5m", "0"


@dataclass(slots=True)
class Starts:
    """Seconds to the first token of many starts of one kind, and the bytes that the workers received.

    Attributes:
        opening_s: Since the coordinator began to open the mesh.
        process_s: Since its process was started.
    """

    opening_s: list[float] = field(default_factory=list)
    process_s: list[float] = field(default_factory=list)
    n_bytes: list[int] = field(default_factory=list)


def main() -> int:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench_starts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench", help="folder for model and stores")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default 5)")
    parser.add_argument("--rate", default="1gbit", help="of each host's link, in tc's words (default 1gbit)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    folder = options.work / "starts"
    model = folder / "bench-350m-q8_0.gguf"
    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"writing {model.name} ...", flush=True)
        write_model(model)
    first, warm, cold = Starts(), Starts(), Starts()
    for _ in range(options.rounds):
        for keep_loaded, second in ((_KEPT, warm), (_NOT_KEPT, cold)):
            measure(model, options, keep_loaded, (first, second))
            print(f"first {first.opening_s[-1]:.2f} s, second {second.opening_s[-1]:.2f} s", flush=True)
    lines = table(first, warm, cold, options)
    print("\n".join(lines))
    if options.write:
        write_between(_PAGE, "bench_starts", lines)
    return 0


def measure(model: Path, options: argparse.Namespace, keep_loaded: str, kinds: Sequence[Starts]) -> None:
    """One start after another, of each of these kinds, over new workers with empty stores."""
    with tempfile.TemporaryDirectory(dir=options.work) as name, ExitStack() as resources:
        folder = Path(name)
        here, *others = resources.enter_context(hosts(1 + _N_WORKERS))
        for host in (here, *others):
            host.limit(options.rate)
        workers = []
        for number, host in enumerate(others, 1):
            cache = folder / f"pc{number}"
            workers.append(HostWorker(host, cache.name, cache, model.parent, "--keep-loaded", keep_loaded))
            resources.callback(workers[-1].stop)
        for kind in kinds:
            before = [host.received_bytes for host in others]
            outcome = coordinate(here, folder / "coordinator", model, _RANGES, workers)
            kind.opening_s.append(outcome.first_token_s)
            kind.process_s.append(outcome.whole_s)
            kind.n_bytes.append(sum(host.received_bytes - had for host, had in zip(others, before, strict=True)))


def table(first: Starts, warm: Starts, cold: Starts, options: argparse.Namespace) -> list[str]:
    """For the page."""

    def row(label: str, starts: Starts) -> str:
        opening, process = (
            f"{spread(seconds)} s, {statistics.median(of_first) / statistics.median(seconds):.1f}"
            for seconds, of_first in ((starts.opening_s, first.opening_s), (starts.process_s, first.process_s))
        )
        return f"| {label} | {statistics.median(starts.n_bytes) / 1e6:.2f} MB | {opening} | {process} |"

    return [
        machine_line(
            f"links of {options.rate}, {options.rounds} rounds ({2 * options.rounds} first starts); medians with the"
            " lowest and highest, and how many times sooner than the first start"
        ),
        "",
        "| | to the workers | first token since the mesh is being opened | since the process was started |",
        "|---|---|---|---|",
        row("first start", first),
        row("second, stages warm", warm),
        row("second, stages from the stores (`--keep-loaded 0`)", cold),
    ]


def spread(values: Sequence[float]) -> str:
    """Median, with the extremes."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main())
