# SPDX-License-Identifier: MIT
"""The checkout that these tests look at: its root and the files that belong to it."""

import functools
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("protos", "native", "worker", "coordinator")


@functools.cache
def own_files() -> tuple[Path, ...]:
    """Every file that is tracked, or would be by `git add`; the test is skipped outside a git checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return tuple(path for path in paths if path.is_file())


def own_python_files() -> list[Path]:
    """The Python files among them, scripts without extension too; generated stubs are left out."""
    return [path for path in own_files() if _is_python(path) and "_pb2" not in path.name]


def _is_python(path: Path) -> bool:
    if path.suffix:
        return path.suffix == ".py"
    with path.open("rb") as file:
        first_line = file.readline(100)
    return first_line.startswith(b"#!") and b"python" in first_line
