# SPDX-License-Identifier: MIT
"""The commands in the documents: fenced `sh` blocks, and `caravan ...` in the middle of a sentence.

A block whose commands are not run by the tests says so in the line before it, where a reader of the Markdown sees it:
<!-- not run: needs two PCs -->, or, where another test runs the same: <!-- run by tests/line/test_x.py -->.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.ground.repository import ROOT, own_files

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```\s*$", re.M | re.S)
_INLINE = re.compile(r"`(caravan [^`]+)`")
_MARK = re.compile(r"<!-- (?P<kind>not run|run by):? (?P<what>.+) -->\s*\Z")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_OPERATORS = frozenset("|&;<>()")
# Where a sentence has one of these it shows a choice, not a command.
_CHOICES = ("...", "…", "[", "|", "COMMAND")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        line: Of its fence, counted from 1.
        reason: Why its commands are not run; None if they are, here or elsewhere.
        test: The file of the test that runs the same; None if this one does, or none.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None
    test: str | None

    @property
    def is_run(self) -> bool:
        """By the test of the documents itself."""
        return self.reason is None and self.test is None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


@dataclass(frozen=True, slots=True)
class Typed:
    """One command as it is typed.

    Attributes:
        place: Where it stands.
        words: Without variables before them.
        is_whole: Not only named in a sentence, where the arguments may be left out.
    """

    place: str
    words: tuple[str, ...]
    is_whole: bool

    @property
    def program(self) -> str:
        """Without the folder that it is in."""
        return Path(self.words[0]).name


def documents() -> list[Path]:
    """README.md and docs/*.md."""
    return [path for path in own_files() if path == ROOT / "README.md" or path.match("docs/*.md")]


def blocks(page: Path) -> Iterator[Block]:
    """All fenced ones of a page."""
    text = page.read_text(encoding="utf-8")
    for fence in _FENCE.finditer(text):
        mark = _MARK.search(text[: fence.start()])
        what = {mark["kind"]: mark["what"]} if mark else {}
        indent = fence["indent"]
        body = "".join(line.removeprefix(indent) for line in fence["body"].splitlines(keepends=True))
        line = text.count("\n", 0, fence.start()) + 1
        yield Block(page, line, fence["language"], body, what.get("not run"), what.get("run by"))


def commands(block: Block) -> Iterator[Typed]:
    """Those of a block of `sh`; a pipe has several."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for words in _split(line):
            yield Typed(str(block), words, is_whole=True)


def inline_commands(page: Path) -> Iterator[Typed]:
    """`caravan ...` in sentences and tables, but for what shows a choice."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for match in _INLINE.finditer(text):
        shown = " ".join(match[1].split())
        if not any(sign in shown for sign in _CHOICES):
            for words in _split(shown):
                yield Typed(f"{page.relative_to(ROOT).as_posix()}: {shown}", words, is_whole=False)


def _split(line: str) -> Iterator[tuple[str, ...]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    goes_to_file = False
    for word in lexer:
        if _OPERATORS.issuperset(word):
            goes_to_file = word in ("<", ">", ">>")
            if not goes_to_file:
                yield from _command(words)
                words = []
        elif not goes_to_file:
            words.append(word)
    yield from _command(words)


def _command(words: list[str]) -> Iterator[tuple[str, ...]]:
    first = next((index for index, word in enumerate(words) if not _ASSIGNMENT.match(word)), len(words))
    if words[first:]:
        yield tuple(words[first:])
