# SPDX-License-Identifier: MIT
"""Fuzzes what reads a stranger's bytes, and keeps every input that did what none may.

    scripts/fuzz_headers                                  every target by turns, ten minutes in all
    scripts/fuzz_headers --minutes 60 --target layout     one target, an hour

    layout    a GGUF file, and a header that came alone        channel    a connection to the weights port
    split     a model in two files                             loads      dry runs and vocabularies in llama.cpp
    offer     an offer to a worker, and the header it asked for

Findings go to FOLDER/findings, inputs that reached new code to FOLDER/corpus, where the next run begins. Ends with 1 if
there was a finding; that llama.cpp aborts at what a model says of itself (loads) is listed, and is none.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fuzzing import loads
from fuzzing.limits import SECONDS, scratch_folder
from fuzzing.seeds import seeds

_LOADS = "loads"
_TARGETS = ("layout", "split", "offer", "channel", _LOADS)
_MAX_INPUT_BYTES = 64 << 10
_RSS_LIMIT_MB = 1024
# libFuzzer's lines begin with how many inputs there were.
_EXECUTED = re.compile(rb"^#(\d+)\s|^stat::number_of_executed_units: *(\d+)", re.MULTILINE)
# Findings that differ in numbers only are counted as one.
_NUMBER = re.compile(r"\d[\d,]*")
# How long a child may take to begin, and to end when its time is over.
_GRACE_S = 120
# What tells a finding, the most telling first.
_TELLING = ("GGML_ASSERT", "GGML_ABORT", "terminate called", "TooMuchMemoryError", "Error: ", "ERROR: libFuzzer")
_MAX_LINE = 200


@dataclass(slots=True)
class Tally:
    """What became of one target."""

    executions: int = 0
    seconds: float = 0
    n_corpus: int = 0
    findings: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)


def main() -> int:
    """Runs all; 1 if anything was found."""
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz_headers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="of all targets together (default 10)")
    parser.add_argument("--target", choices=_TARGETS, action="append", help="this one only; may be given again")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzzing"), help="for corpus and findings")
    options = parser.parse_args()
    targets: Sequence[str] = options.target or _TARGETS
    seconds = options.minutes * 60 / len(targets)
    n_findings = 0
    for target in targets:
        tally = (_load if target == _LOADS else _fuzz)(target, options.folder, seconds)
        n_findings += tally.findings.total()
        print(
            f"{target}: {tally.executions:,} executions in {tally.seconds:.0f} s, corpus of {tally.n_corpus:,},"
            f" {tally.findings.total()} findings",
            flush=True,
        )
        for what, count in (*tally.findings.most_common(), *tally.remarks.most_common()):
            print(f"    {count:,} x {what}", flush=True)
    return int(n_findings > 0)


def _load(target: str, folder: Path, seconds: float) -> Tally:
    findings = folder / "findings" / target
    findings.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    outcomes = loads.run(findings, seconds)
    tally = Tally(outcomes.total(), time.monotonic() - started, loads.n_seeds())
    for what, count in outcomes.items():
        (tally.remarks if loads.is_foreseen(what) else tally.findings)[what] = count
    return tally


def _fuzz(target: str, folder: Path, seconds: float) -> Tally:
    """One child after the other, until the time is over: each finding ends one."""
    corpus, findings = folder / "corpus" / target, folder / "findings" / target
    for made in (corpus, findings):
        made.mkdir(parents=True, exist_ok=True)
    for name, data in seeds(target):
        (corpus / name).write_bytes(data)
    tally, started = Tally(), time.monotonic()
    while (left := seconds - (time.monotonic() - started)) > 1:
        before = set(findings.iterdir())
        output, code = _run(target, corpus, findings, left)
        n_executed = max((int(a or b) for a, b in _EXECUTED.findall(output)), default=0)
        tally.executions += n_executed
        if n_executed == 0:
            end = output[-4000:].decode(errors="replace")
            sys.exit(f"the child that fuzzes {target} ended with {code} before its first input:\n{end}")
        if code != 0:
            what = _what(output)
            tally.findings[_NUMBER.sub("N", what)] += 1
            new = sorted(path.name for path in set(findings.iterdir()) - before)
            print(f"{target}: {what} ({', '.join(new) or 'an input that was found before'})", flush=True)
    tally.seconds, tally.n_corpus = time.monotonic() - started, len(list(corpus.iterdir()))
    return tally


def _run(target: str, corpus: Path, findings: Path, seconds: float) -> tuple[bytes, int]:
    """What a child said, and its exit status; it ends by itself."""
    options = [
        f"-max_total_time={max(1, int(seconds))}",
        f"-timeout={SECONDS}",
        f"-rss_limit_mb={_RSS_LIMIT_MB}",
        f"-max_len={_MAX_INPUT_BYTES}",
        f"-artifact_prefix={findings}{os.sep}",
        "-print_final_stats=1",
        "-reload=0",
    ]
    with scratch_folder() as scratch:
        command = [sys.executable, "-m", "fuzzing.child", target, str(scratch), str(findings), *options, str(corpus)]
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds + _GRACE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            end = (error.output or b"")[-4000:].decode(errors="replace")
            sys.exit(f"the child that fuzzes {target} does not end:\n{end}")
    return done.stdout, done.returncode


def _what(output: bytes) -> str:
    """A finding in one line: the exception, or libFuzzer's word for it, or ggml's assertion."""
    lines = output.decode(errors="replace").splitlines()
    for pattern in _TELLING:
        for line in lines:
            if pattern in line:
                return line.strip()[:_MAX_LINE]
    return "no reason was given"


if __name__ == "__main__":
    sys.exit(main())
