# SPDX-License-Identifier: MIT
"""The part of a page that a script writes: what is between two comments with its name."""

from __future__ import annotations

import sys
from pathlib import Path


def part_of(page: Path, name: str) -> str:
    """What is there, without blank lines around it."""
    return _split(page, name)[1].strip()


def write_part(page: Path, name: str, text: str) -> None:
    """Puts the text there."""
    before, _, after = _split(page, name)
    page.write_text(f"{before}\n\n{text}\n\n{after}", encoding="utf-8")


def write_or_check(page: Path, name: str, text: str) -> None:
    """The whole of a script `scripts/NAME` that makes the text: writes it, or, with --check, exits with 1 if another
    text is there."""
    if "--check" in sys.argv[1:]:
        sys.exit(0 if part_of(page, name) == text else f"{page.name} is stale: run scripts/{name}")
    write_part(page, name, text)


def _split(page: Path, name: str) -> tuple[str, str, str]:
    """The page up to the part, with its comment; the part; and the rest, from the other comment on."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin, 1)
    part, after = rest.split(end, 1)
    return before + begin, part, end + after
