# SPDX-License-Identifier: MIT
"""llama.cpp's source, as the pinned llama-cpp-python's source package vendors it, and builds of its own tools.

Called by scripts/conformance and scripts/bench_vs_rpc, so that peers and references are the engine's very source.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def fetch_source(work: Path, version: str) -> Path:
    """The source folder, fetched into `work` the first time."""
    work.mkdir(parents=True, exist_ok=True)
    folder = work / f"llama_cpp_python-{version}"
    if not folder.exists():
        print(f"fetching the source package of llama-cpp-python {version} ...", flush=True)
        download = ["download", "--no-deps", "--no-binary", "llama-cpp-python", "--quiet"]
        run([sys.executable, "-m", "pip", *download, f"llama-cpp-python=={version}", "-d", str(work)])
        with tarfile.open(work / f"llama_cpp_python-{version}.tar.gz") as archive:
            archive.extractall(work, filter="data")
    return folder / "vendor" / "llama.cpp"


def build(source: Path, folder: Path, targets: Sequence[str], options: Sequence[str] = ()) -> Path:
    """Builds targets of llama.cpp (nothing that is built already) and returns the folder of the programs."""
    print(f"building llama.cpp's {', '.join(targets)} ...", flush=True)
    run(
        [
            "cmake",
            "-S",
            str(source),
            "-B",
            str(folder),
            "-DCMAKE_BUILD_TYPE=Release",
            "-DBUILD_SHARED_LIBS=ON",
            *options,
        ]
    )
    run(["cmake", "--build", str(folder), "-j", "2", "--target", *targets])
    return folder / "bin"


def run(command: Sequence[str]) -> None:
    """Runs a step quietly; ends the program with what it said if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
