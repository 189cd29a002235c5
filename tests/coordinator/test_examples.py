# SPDX-License-Identifier: MIT
"""The examples of the Python API run as they stand: those in the docstrings of what is public, and docs/python.md."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import json
import logging
import math
import threading
from collections.abc import Iterator

import pytest

import coordinator
from coordinator import AsyncMesh, Distribution, Mesh
from tests.ground.documented import Block, blocks
from tests.ground.repository import ROOT

_PAGE = ROOT / "docs" / "python.md"
_TAKEN_FOR_GRANTED = {"asyncio": asyncio, "json": json, "logging": logging, "math": math, "threading": threading}
_FLAGS = doctest.ELLIPSIS | doctest.REPORT_ONLY_FIRST_FAILURE


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """The one that the examples speak of."""
    with Mesh.open("demo", discover=False, local_workers=2, distribution=Distribution.ON, embeddings=True) as mesh:
        yield mesh


def _documented() -> Iterator[tuple[str, object]]:
    """What is public, and the public members of the two meshes."""
    yield from ((name, getattr(coordinator, name)) for name in coordinator.__all__)
    for mesh in (AsyncMesh, Mesh):
        for name, member in inspect.getmembers(mesh):
            if not name.startswith("_"):
                yield f"{mesh.__name__}.{name}", member


def _examples() -> list[doctest.DocTest]:
    """Each docstring with an example, once, whoever inherits it."""
    finder = doctest.DocTestFinder(recurse=False, exclude_empty=True)
    found: dict[str, doctest.DocTest] = {}
    for name, documented in _documented():
        if not isinstance(documented, int):  # whose docstring is Python's own
            for example in finder.find(documented, name, module=False, globs={}):
                found.setdefault(example.docstring or "", example)
    return [example for example in found.values() if example.examples]


@pytest.mark.parametrize("example", _examples(), ids=lambda example: example.name)
def test_an_example_in_a_docstring_runs(example: doctest.DocTest, mesh: Mesh) -> None:
    example.globs = {**vars(coordinator), **_TAKEN_FOR_GRANTED, "mesh": mesh}
    told: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=_FLAGS).run(example, out=told.append)
    assert not failed, "".join(told)


def test_what_one_does_with_a_mesh_has_an_example() -> None:
    shown = {example.name.rpartition(".")[2] for example in _examples()}
    assert {"Mesh", "generate", "chat", "embed", "plan", "events", "workers", "Generation", "grammar_of"} <= shown


@pytest.mark.parametrize("block", [each for each in blocks(_PAGE) if each.language == "python"], ids=str)
def test_an_example_of_the_page_runs(block: Block, mesh: Mesh) -> None:
    if block.reason is None:
        exec(compile(block.text, str(block), "exec"), {"mesh": mesh, "__name__": "example"})


def test_the_page_has_all_that_is_public() -> None:
    page = _PAGE.read_text(encoding="utf-8")
    missing = [name for name, _ in _documented() if f"`{name.rpartition('.')[2]}" not in page]
    assert not missing
