# SPDX-License-Identifier: MIT
"""Rules of the house that a machine can check: how files start, how long they may be, what may be tracked."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.ground.repository import ROOT, own_files, own_python_files

_MAX_TRACKED_BYTES = 8 << 20
_MAX_MODULE_LINES = 500
_MAX_FUNCTION_LINES = 80
# A module that is better in one piece says so, with the reason behind it.
_LONG_ON_PURPOSE = "# Long on purpose: "

# Put together here, so that this file does not hold what it looks for.
_PRIVATE_PATHS = [rf"(?<![\w.])/{folder}/" for folder in ("root", "work")]
_REGISTRY_HOSTS = [
    rf"\b{name}\.{domain}\b"
    for name, domain in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("debian", "org"),
        ("ubuntu", "com"),
        ("crates", "io"),
    )
]
_FORBIDDEN = re.compile("|".join([*_PRIVATE_PATHS, *_REGISTRY_HOSTS]))
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_every_python_file_starts_with_its_licence_and_says_what_it_owns() -> None:
    for path in own_python_files():
        assert any("SPDX-License-Identifier: MIT" in line for line in _lines(path)[:2]), _name(path)
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{_name(path)} says nothing"


def test_every_other_source_starts_with_its_licence() -> None:
    sources = [p for p in own_files() if p.suffix in {".cpp", ".h", ".sh"} or p.name == "CMakeLists.txt"]
    sources += [p for p in own_files() if p.parent in {ROOT / "scripts", ROOT / ".ci"}]
    for path in sources:
        assert any("SPDX-License-Identifier: MIT" in line for line in _lines(path)[:2]), _name(path)


def test_no_module_and_no_function_is_too_long_to_read() -> None:
    for path in own_python_files():
        lines = _lines(path)
        excused = any(line.startswith(_LONG_ON_PURPOSE) for line in lines)
        assert len(lines) <= _MAX_MODULE_LINES or excused, f"{_name(path)} has {len(lines)} lines"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n_lines = (node.end_lineno or node.lineno) - node.lineno + 1
                assert n_lines <= _MAX_FUNCTION_LINES, f"{node.name} in {_name(path)} has {n_lines} lines"


def test_there_is_no_bag_for_things_without_a_home() -> None:
    bags = {"utils", "util", "helpers", "common", "misc"}
    assert not [_name(path) for path in own_files() if bags & {path.stem, *path.relative_to(ROOT).parts}]


def test_no_large_file_is_tracked() -> None:
    assert not [_name(path) for path in own_files() if path.stat().st_size > _MAX_TRACKED_BYTES]


def test_no_file_names_one_machine_or_a_package_registry() -> None:
    found = []
    for path in own_files():
        text = path.read_bytes().decode(errors="ignore")
        found += [f"{_name(path)}: {match.group()}" for match in _FORBIDDEN.finditer(text)]
    assert not found


def test_what_people_run_can_be_run() -> None:
    beside = [path for path in own_files() if path.parent in {ROOT / "scripts", ROOT / ".ci"}]
    # What has an ending is a module that one of them runs.
    scripts = [path for path in beside if not path.suffix]
    assert {"setup", "demo", "test", "lint", "run", "conformance", "bench_vs_rpc"} <= {path.name for path in scripts}
    for path in scripts:
        assert path.stat().st_mode & 0o111, f"{_name(path)} is not executable"
        assert _lines(path)[0].startswith("#!/usr/bin/env "), _name(path)


def test_every_link_in_the_documents_leads_somewhere() -> None:
    documents = [path for path in own_files() if path.suffix == ".md"]
    assert ROOT / "README.md" in documents
    for path in documents:
        for target in _LINK.findall(path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{_name(path)} links to {target}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {path.name for path in own_files() if path.match("docs/*.md")} - {"index.md"}
    assert {name for name in pages if f"]({name})" not in index} == set()


def test_every_file_that_the_architecture_names_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:protos|native|worker|coordinator|tests|scripts)/[\w./-]+)`", text)
    assert len(named) > 8
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_native_sources_are_formatted() -> None:
    sources = [path for path in own_files() if path.parent == ROOT / "native" / "src"]
    assert sources
    clang_format = shutil.which("clang-format", path=Path(sys.executable).parent)
    assert clang_format, "clang-format is not installed beside this Python; run scripts/setup"
    command = [clang_format, "--dry-run", "-Werror", *map(str, sources)]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
