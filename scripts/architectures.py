# SPDX-License-Identifier: MIT
"""Proves, architecture by architecture, that a split model gives llama.cpp's own logits, bit for bit.

Fetches the source package of the pinned llama-cpp-python, builds llama.cpp's own test-llama-archs, lets it write its
tiny models (dense and MoE; with the layers it chooses, mostly 2, and with 6 where an architecture can), runs each
whole and split (tests/conformance/split_check.py says how), and writes the table docs/architectures.md.

    scripts/conformance                    everything; half an hour the first time on two cores
    scripts/conformance --only 'qwen.*'    some architectures, the table is left alone
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llama_source import ROOT, build, fetch_source, run
from native import ModelFileError, read_layout
from native.library import BUILT_FOR

TABLE = ROOT / "docs" / "architectures.md"

# The one line of llama.cpp's test that says how many layers most of its models get.
DEFAULT_LAYERS = "uint32_t n_layer = 2;"
MORE_LAYERS = 6
MORE_LAYERS_LINE = f"uint32_t n_layer = {MORE_LAYERS};"

# One architecture's models and their check are small; one that hangs must not hold up the others.
WRITE_TIMEOUT_S = 60
CHECK_TIMEOUT_S = 300


@dataclass(frozen=True)
class Row:
    """One line of the table: an architecture's model and what became of it."""

    architecture: str
    kind: str
    n_layer: int
    verdict: str
    detail: str
    n_comparisons: int


def main() -> int:
    """Runs the whole check; the exit code is 1 if an architecture is neither identical nor refused."""
    parser = argparse.ArgumentParser(
        prog="scripts/conformance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "conformance", help="folder for source and build")
    parser.add_argument("--only", metavar="REGEX", help="check only architectures whose name matches")
    parser.add_argument("--jobs", type=int, default=2, help="models checked at a time (default 2)")
    options = parser.parse_args()

    source = fetch_source(options.work, BUILT_FOR)
    writers = build_writers(options.work, source)
    models = write_models(options.work, writers, options.only)
    rows = check_all(models, options.jobs)
    failures = [row for row in rows if row.verdict not in ("identical", "refused")]
    print(f"{len(rows)} models: {count(rows, 'identical')} bit-identical, {count(rows, 'refused')} refused, "
          f"{len(failures)} neither")  # fmt: skip
    if options.only is None:
        TABLE.write_text(table(rows, BUILT_FOR), encoding="utf-8")
        print(f"wrote {TABLE.relative_to(ROOT)}")
    return 1 if failures else 0


def build_writers(work: Path, source: Path) -> dict[int, Path]:
    """test-llama-archs twice: with its own number of layers, and with MORE_LAYERS."""
    test = source / "tests" / "test-llama-archs.cpp"
    original = test.read_text(encoding="utf-8").replace(MORE_LAYERS_LINE, DEFAULT_LAYERS)
    options = ["-DLLAMA_BUILD_TESTS=ON", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"]
    writers = {}
    for n_layer, line in ((2, DEFAULT_LAYERS), (MORE_LAYERS, MORE_LAYERS_LINE)):
        writers[n_layer] = work / "build" / "bin" / f"test-llama-archs-{n_layer}"
        if not writers[n_layer].exists():
            test.write_text(original.replace(DEFAULT_LAYERS, line), encoding="utf-8")
            programs = build(source, work / "build", ["test-llama-archs"], options)
            shutil.copy2(programs / "test-llama-archs", writers[n_layer])
    return writers


def write_models(work: Path, writers: dict[int, Path], only: str | None) -> list[Path]:
    """Every architecture's models; those with more layers one architecture at a time, since some cannot have them."""
    own = work / "models-own"
    more = work / f"models-{MORE_LAYERS}"
    for folder in (own, more):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    run([str(writers[2]), "-s", "1", "-o", str(own)])
    paths = sorted(own.glob("*.gguf"))
    for name in sorted({path.stem.rsplit("-", 1)[0] for path in paths}):
        command = [str(writers[MORE_LAYERS]), "-s", "1", "-a", f"^{re.escape(name)}$", "-o", str(more)]
        try:
            subprocess.run(command, capture_output=True, timeout=WRITE_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            print(f"{name}: writing a model of {MORE_LAYERS} layers took too long, left out")
    for path in sorted(more.glob("*.gguf")):
        # An abort can leave half a file, and some architectures fix their number of layers: both say nothing new.
        paths += [path] if is_new(path, own / path.name) else []
    return [path for path in paths if only is None or re.fullmatch(only, path.stem.rsplit("-", 1)[0])]


def is_new(path: Path, own: Path) -> bool:
    """Whether a model is whole and has another number of layers than the one llama.cpp's test makes by itself."""
    try:
        return read_layout(path).n_layer != read_layout(own).n_layer
    except ModelFileError:
        return False


def check_all(models: Sequence[Path], jobs: int) -> list[Row]:
    """Checks each model in a process of its own, so that an abort of llama.cpp costs one."""
    rows = []
    with ThreadPoolExecutor(jobs) as pool:
        for done, row in enumerate(pool.map(check, models), start=1):
            rows.append(row)
            print(f"[{done}/{len(models)}] {row.architecture} ({row.kind}, {row.n_layer} layers): {row.verdict} "
                  f"{row.detail}".rstrip(), flush=True)  # fmt: skip
    return sorted(rows, key=lambda row: (row.architecture, row.kind, row.n_layer))


def check(path: Path) -> Row:
    """One model."""
    name, kind = path.stem.rsplit("-", 1)
    command = [sys.executable, "-m", "tests.conformance.split_check", str(path)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False)
        result = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
        detail = "" if done.returncode == 0 else f"the process died: {last_assert(done.stderr)}"
    except subprocess.TimeoutExpired:
        result, detail = None, f"no answer within {CHECK_TIMEOUT_S} s"
    if result is None:
        return Row(name, kind, read_layout(path).n_layer, "error", detail, 0)
    return Row(name, kind, result["n_layer"], result["verdict"], result["detail"], result["n_comparisons"])


def last_assert(stderr: str) -> str:
    """What llama.cpp said before it aborted."""
    lines = [line for line in stderr.splitlines() if "ASSERT" in line or "Error" in line]
    return lines[-1].rsplit("/", 1)[-1] if lines else "without a word"


def table(rows: Sequence[Row], version: str) -> str:
    """docs/architectures.md."""
    lines = [
        "# Architectures",
        "",
        "<!-- Written by scripts/conformance; do not edit. -->",
        "",
        f"What `scripts/conformance` found with llama-cpp-python {version} on the CPU: llama.cpp's own tiny test model",
        "of each architecture, run whole by plain llama.cpp and split over 2, 3 and 4 stages, with flash attention off",
        "and on, unified and per-sequence KV cache, two interleaved sequences, and batches that llama.cpp cuts into",
        "several ubatches. *Identical* means that every logit of every comparison had the same bits.",
        "",
        f"{count(rows, 'identical')} of {len(rows)} models identical, {count(rows, 'refused')} refused, "
        f"{len(rows) - count(rows, 'identical') - count(rows, 'refused')} neither.",
        "",
        "| architecture | kind | layers | comparisons | split |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        verdict = row.verdict if not row.detail else f"**{row.verdict}**: {row.detail}"
        lines.append(f"| {row.architecture} | {row.kind} | {row.n_layer} | {row.n_comparisons or '-'} | {verdict} |")
    return "\n".join(lines) + "\n"


def count(rows: Sequence[Row], verdict: str) -> int:
    """How many rows have that verdict."""
    return sum(row.verdict == verdict for row in rows)


if __name__ == "__main__":
    sys.exit(main())
