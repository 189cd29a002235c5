# SPDX-License-Identifier: MIT
"""The rooms import each other as designed: the import-linter contracts in pyproject.toml hold, and bite."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ground.repository import ROOMS, ROOT

# An editable install finds our packages in the checkout wherever we stand; here they are to be found where we stand.
_LINT = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
from importlinter.cli import lint_imports_command
lint_imports_command()
"""


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _LINT, "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copied_rooms(tmp_path: Path) -> Path:
    """The rooms' Python files and the configuration in a folder of their own, free to be spoilt."""
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_rooms_import_only_what_they_may() -> None:
    linted = _lint_imports(ROOT)
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("coordinator", "import worker"),
        ("worker", "import coordinator.errors"),
        ("protos", "import native"),
        ("native", "import protos.contract"),
        ("native", "import grpc"),
        ("native", "from google.protobuf import message"),
        ("worker", "import llama_cpp"),
        ("coordinator", "from llama_cpp import llama_cpp"),
    ],
)
def test_an_import_across_the_walls_is_found(copied_rooms: Path, room: str, line: str) -> None:
    (copied_rooms / room / "intruder.py").write_text(f"{line}\n")
    linted = _lint_imports(copied_rooms)
    assert linted.returncode == 1, linted.stdout + linted.stderr
    assert "intruder" in linted.stdout
