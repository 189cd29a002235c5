# SPDX-License-Identifier: MIT
"""The side-by-side of record: two workers on one core each beside two of llama.cpp's RPC servers on the same cores, the
same GGUF, rounds taken in turns.

    scripts/bench_vs_rpc                         all rows, five rounds; about an hour, with nothing else running
    scripts/bench_vs_rpc --write                 the same, and the table goes into docs/benchmarks.md
    scripts/bench_vs_rpc --rows decode prefill   some rows; with --write the others stay as they are

The first time it fetches llama.cpp's source (the pinned llama-cpp-python's source package), builds its tools, and
writes the models (24 layers, about 350 M parameters).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from benchmark.network import UnavailableError
from benchmark.report import kept_lines, machine_line, write_between
from benchmark.row import Setting, measure, table_lines
from benchmark.rows import ROWS
from llama_source import ROOT, build, fetch_source
from native.library import BUILT_FOR

# gRPC tells of every fork otherwise, and peers are started by forking.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

PAGE = ROOT / "docs" / "benchmarks.md"
TABLE = "bench_vs_rpc"
TOOLS = ("ggml-rpc-server", "llama-bench", "llama-batched-bench", "llama-quantize")
_MOST_LOAD = 0.5
"""Processes that run beside the benchmark, on average, before it says that figures will not be good."""


def main() -> int:
    """Measures the rows and prints the table."""
    # What was started and made is ended also then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = _parser().parse_args()
    setting = _setting(options)
    if os.getloadavg()[0] > _MOST_LOAD:
        print(f"something else runs here (load {os.getloadavg()[0]:.1f}): figures will not be good", flush=True)
    lines: dict[str, list[str]] = {}
    for row in (row for row in ROWS if row.name in options.rows):
        try:
            figures = measure(row, setting, options.rounds, lambda line: print(line, flush=True))
            lines[row.what] = table_lines(row, figures)
        except UnavailableError as error:
            lines[row.what] = [f"| {row.what} | | {error} | | | |"]
        print("\n".join(lines[row.what]), flush=True)
    head = _head(options.rounds, setting)
    print("\n".join([*head, *(line for own in lines.values() for line in own)]))
    if options.write:
        all_lines = kept_lines(PAGE, TABLE, [row.what for row in ROWS]) | lines
        ordered = [line for row in ROWS for line in all_lines.get(row.what, ())]
        write_between(PAGE, TABLE, [*head, *ordered])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench_vs_rpc", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [row.name for row in ROWS]
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "bench", help="folder for what is built and written"
    )
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="NAME",
                        help=f"which rows (default all): {', '.join(names)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each side (default 5)")
    parser.add_argument("--n-prompt", type=int, default=2048, help="tokens of a long prompt (default 2048)")
    parser.add_argument("--n-decode", type=int, default=128, help="tokens of each stream (default 128)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    return parser


def _setting(options: argparse.Namespace) -> Setting:
    """Builds what is needed."""
    cores = tuple(sorted(os.sched_getaffinity(0)))[:2]
    if len(cores) < 2:
        sys.exit("this benchmark needs two cores, one for each worker")
    source = fetch_source(options.work, BUILT_FOR)
    programs = build(source, options.work / "build", TOOLS, ["-DGGML_RPC=ON", "-DLLAMA_BUILD_TESTS=OFF"])
    return Setting(options.work, programs, cores, options.n_prompt, options.n_decode)


def _head(n_rounds: int, setting: Setting) -> list[str]:
    """What was measured on, and the head of the table."""
    return [
        machine_line(
            f"{n_rounds} rounds of each in turns; {setting.n_decode} tokens of each stream, long prompts of "
            f"{setting.n_prompt}; medians with the lowest and highest round"
        ),
        "",
        "| what | caravan | beside it | ratio | aim | |",
        "|---|---|---|---|---|---|",
    ]


if __name__ == "__main__":
    sys.exit(main())
