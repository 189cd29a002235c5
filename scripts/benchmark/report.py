# SPDX-License-Identifier: MIT
"""How a benchmark's table tells what it was measured on, and gets into its page."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from llama_source import ROOT
from native.library import BUILT_FOR
from written_part import part_of, write_part


def machine_line(how: str) -> str:
    """What was measured on, and how, in a line."""
    return f"llama-cpp-python {BUILT_FOR}, {_processor()}, {len(os.sched_getaffinity(0))} cores, {how}."


def write_between(page: Path, name: str, lines: Sequence[str]) -> None:
    """Replaces what a page has between the markers of that name."""
    write_part(page, name, "\n".join(lines))
    print(f"wrote {page.relative_to(ROOT)}")


def kept_lines(page: Path, name: str, whats: Sequence[str]) -> dict[str, list[str]]:
    """The lines that a page's table has for these rows: a row begins with what it is, and goes on as long as a line's
    first cell is empty."""
    kept: dict[str, list[str]] = {}
    what = ""
    for line in part_of(page, name).splitlines():
        if line.startswith("| "):
            what = line.split("|")[1].strip() or what
            if what in whats:
                kept.setdefault(what, []).append(line)
    return kept


def _processor() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        if found:
            return found[1]
    return platform.processor() or platform.machine()
