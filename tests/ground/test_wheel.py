# SPDX-License-Identifier: MIT
"""What `pip install` would bring: a wheel of this checkout holds the rooms, the wire and the demo model."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.ground.repository import ROOMS, ROOT, own_files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of exactly the files that belong to this checkout."""
    source = tmp_path_factory.mktemp("source")
    for path in own_files():
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    built = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(source)]
    subprocess.run(command, check=True, timeout=300)
    (path,) = built.glob("llama_caravan-*-py3-none-*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.timeout(300)
def test_a_wheel_holds_what_runs_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if not name.startswith("llama_caravan-")}
    assert {Path(name).parts[0] for name in names} == set(ROOMS)
    assert [name for name in names if name.startswith("native/libcaravan_wire.")]
    assert "coordinator/models/demo.gguf" in names
    for path in own_files():
        name = path.relative_to(ROOT).as_posix()
        if name.split("/")[0] in ROOMS and path.suffix in {".py", ".pyi", ".typed", ".html", ".css", ".js", ".svg"}:
            assert name in names
    assert not [name for name in names if name.endswith((".cpp", ".h", ".proto", ".txt"))]
    entry_points = wheel.read("llama_caravan-0.1.0.dist-info/entry_points.txt").decode()
    assert "caravan=coordinator.cli:main" in entry_points.replace(" ", "")
