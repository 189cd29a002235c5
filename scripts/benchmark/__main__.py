# SPDX-License-Identifier: MIT
"""Our line beside llama.cpp's own RPC backend, in one run: two workers on one core each against two RPC servers on
the same cores, the same GGUF, rounds taken in turns.

    scripts/bench_vs_rpc                 five rounds on loopback and with 0.5 ms on each link; about ten minutes
    scripts/bench_vs_rpc --write         the same, and the table goes into docs/benchmarks.md

The first time it fetches llama.cpp's source (the pinned llama-cpp-python's source package), builds ggml-rpc-server,
llama-bench and llama-batched-bench from it, and writes the model (24 layers, about 350 M parameters, Q8_0).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
from pathlib import Path

from benchmark.model import write_model
from benchmark.peers import Load, Sample, caravan, rpc
from benchmark.report import machine_line, write_between
from llama_source import ROOT, build, fetch_source
from native.library import BUILT_FOR

# gRPC tells of every fork otherwise, and peers are started by forking.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

PAGE = ROOT / "docs" / "benchmarks.md"
TOOLS = ("ggml-rpc-server", "llama-bench", "llama-batched-bench")


def main() -> int:
    """Measures every delay and prints the table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench_vs_rpc", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "bench", help="folder for what is built and written"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each side (default 5)")
    parser.add_argument("--delay-ms", type=float, nargs="*", default=[0, 0.5], help="one-way delay of each link")
    parser.add_argument("--n-prompt", type=int, default=512, help="tokens of the prefill (default 512)")
    parser.add_argument("--n-decode", type=int, default=128, help="tokens of the decode (default 128)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    cores = tuple(sorted(os.sched_getaffinity(0)))[:2]
    if len(cores) < 2:
        sys.exit("this benchmark needs two cores, one for each worker")

    source = fetch_source(options.work, BUILT_FOR)
    programs = build(source, options.work / "build", TOOLS, ["-DGGML_RPC=ON", "-DLLAMA_BUILD_TESTS=OFF"])
    model = options.work / "bench-350m-q8_0.gguf"
    if not model.exists():
        print(f"writing {model.name} ...", flush=True)
        write_model(model)
    lines = table_head(options.rounds)
    for delay_ms in options.delay_ms:
        load = Load(options.n_prompt, options.n_decode, cores, delay_ms)
        ours, theirs = measure(programs, model, load, options.rounds)
        lines += table_rows(load, ours, theirs)
    print("\n".join(lines))
    if options.write:
        write_between(PAGE, "bench_vs_rpc", lines)
    return 0


def measure(programs: Path, model: Path, load: Load, rounds: int) -> tuple[list[Sample], list[Sample]]:
    """Rounds in turns, so that a busy moment of the machine hits both; one round of each before, uncounted."""
    ours, theirs = [], []
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(caravan(model, load))
        peer = stack.enter_context(rpc(programs, model, load))
        line.round()
        peer.round()
        for number in range(1, rounds + 1):
            ours.append(line.round())
            theirs.append(peer.round())
            print(f"delay {load.delay_ms:g} ms, round {number}: caravan {ours[-1].decode:.1f} tok/s decode, "
                  f"{ours[-1].prefill:.0f} prefill; RPC {theirs[-1].decode:.1f}, {theirs[-1].prefill:.0f}",
                  flush=True)  # fmt: skip
    return ours, theirs


def table_head(rounds: int) -> list[str]:
    """What was measured on, and the head of the table."""
    return [
        machine_line(f"{rounds} rounds of each in turns; tokens per second, medians with the lowest and highest round"),
        "",
        "| | one-way delay | caravan | llama.cpp RPC | ratio of medians |",
        "|---|---|---|---|---|",
    ]


def table_rows(load: Load, ours: list[Sample], theirs: list[Sample]) -> list[str]:
    """One row for decode and one for prefill."""
    rows = (
        (f"decode, one stream, {load.n_decode} tokens", [s.decode for s in ours], [s.decode for s in theirs]),
        (f"prefill, {load.n_prompt} tokens", [s.prefill for s in ours], [s.prefill for s in theirs]),
    )
    return [
        f"| {what} | {load.delay_ms:g} ms | {spread(a)} | {spread(b)} "
        f"| {statistics.median(a) / statistics.median(b):.2f} |"
        for what, a, b in rows
    ]


def spread(values: list[float]) -> str:
    """Median, with the extremes."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    sys.exit(main())
