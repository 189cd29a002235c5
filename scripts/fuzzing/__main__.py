# SPDX-License-Identifier: MIT
"""Fuzzes what reads a stranger's bytes: one target after the other, each in a process of its own that ends with its
first finding and is started again.

    layout   a GGUF file, alone and as a part, and a header that came without its file
    loads    a header that our reader takes, in llama.cpp: its vocabulary, a text, a dry run of all layers and of some
    offer    an offer to a worker, and the header it asked for
    peer     messages: orders, frames, and both ends of the weights channel

Inputs of findings go to build/fuzzing/findings, inputs that reached new code to build/fuzzing/corpus, where the next
run begins. Ends with 1 if there was a finding.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fuzzing.seeds import seeds

_FOLDER = Path("build/fuzzing")
_TARGETS = ("layout", "loads", "offer", "peer")
_MAX_INPUT_BYTES = 64 << 10
# Of one input, in whole seconds. A run with a debugger's patience is none.
_HANGS_S = 5
_RSS_LIMIT_MIB = 1024
# How long a process may take to begin, a minute of it on a busy machine, and to end when its time is over.
_GRACE_S = 180

_RUNS = re.compile(r"^#(\d+)\s|^stat::number_of_executed_units: *(\d+)", re.MULTILINE)
_PEAK_MIB = re.compile(r"^stat::peak_rss_mb: *(\d+)", re.MULTILINE)
# What tells a finding, the most telling first; those that differ in numbers alone are counted as one.
_TELLING = ("Finding: ", "GGML_ASSERT", "terminate called", "Error: ", "ERROR: libFuzzer")
_NUMBER = re.compile(r"\d[\d,]*")
_MAX_LINE = 160


@dataclass(slots=True)
class Tally:
    """What became of one target."""

    target: str
    n_runs: int = 0
    seconds: float = 0
    peak_mib: int = 0
    n_corpus: int = 0
    findings: Counter[str] = field(default_factory=Counter)

    def row(self) -> str:
        return (
            f"{self.target:8}{self.n_runs:>12,}{self.seconds:>9.0f} s{self.n_corpus:>9,}"
            f"{self.findings.total():>10,}{self.peak_mib:>9,} MiB"
        )


def main() -> int:
    """1 if anything was found."""
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz_headers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=600, help="of all targets together (default 600)")
    parser.add_argument("--target", choices=_TARGETS, action="append", help="this one only; may be given again")
    options = parser.parse_args()
    targets = options.target or _TARGETS
    tallies = [_fuzz(target, options.seconds / len(targets)) for target in targets]
    print(f"{'target':8}{'runs':>12}{'time':>11}{'corpus':>9}{'findings':>10}{'peak':>13}")
    for tally in tallies:
        print(tally.row())
        for what, count in tally.findings.most_common():
            print(f"    {count:,} x {what}")
    return int(any(tally.findings for tally in tallies))


def _fuzz(target: str, seconds: float) -> Tally:
    corpus, findings = _FOLDER / "corpus" / target, _FOLDER / "findings" / target
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds(target):
        (corpus / name).write_bytes(data)
    tally, end = Tally(target), time.monotonic() + seconds
    while (left := end - time.monotonic()) > 1:
        started = time.monotonic()
        code, output = _run(target, corpus, findings, int(left) or 1)
        tally.seconds += time.monotonic() - started
        n_runs = max((int(a or b) for a, b in _RUNS.findall(output)), default=0)
        if n_runs == 0:
            sys.exit(f"fuzzing {target} ended with {code} before its first input:\n{output[-4000:]}")
        tally.n_runs += n_runs
        tally.peak_mib = max([tally.peak_mib, *map(int, _PEAK_MIB.findall(output))])
        if code != 0:
            what = _what(output)
            tally.findings[_NUMBER.sub("N", what)] += 1
            print(f"{target}: {what}", file=sys.stderr, flush=True)
    tally.n_corpus = len(list(corpus.iterdir()))
    return tally


def _run(target: str, corpus: Path, findings: Path, seconds: int) -> tuple[int, str]:
    """One process, until its time is over or it finds something; its exit status, and what it said."""
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={_HANGS_S}",
        f"-rss_limit_mb={_RSS_LIMIT_MIB}",
        f"-max_len={_MAX_INPUT_BYTES}",
        f"-artifact_prefix={findings}{os.sep}",
        "-print_final_stats=1",
        "-reload=0",
    ]
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as scratch:
        command = [sys.executable, "-m", "fuzzing.child", target, scratch, str(findings), *options, str(corpus)]
        try:
            done = subprocess.run(
                command,
                # Else each new thread's address space would count as an input's.
                env=os.environ | {"MALLOC_ARENA_MAX": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds + _GRACE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            said = (error.stdout or b"").decode(errors="replace")
            return 1, f"{said}\nFinding: it has not ended {_GRACE_S} s after its time"
    return done.returncode, done.stdout.decode(errors="replace")


def _what(output: str) -> str:
    """A finding in one line."""
    lines = output.splitlines()
    told = (line.strip() for telling in _TELLING for line in lines if telling in line)
    return next(told, "no reason was given")[:_MAX_LINE]


if __name__ == "__main__":
    sys.exit(main())
