# SPDX-License-Identifier: MIT
"""What docs/troubleshooting.md quotes in italics is what the code says: users search for it word by word."""

import ast
import re

from tests.ground.repository import ROOMS, ROOT

_ITALIC = re.compile(r"(?<![*\w])\*([^*]+)\*(?!\*)")
_LEFT_OUT = "..."


def _said() -> str:
    """All texts of the rooms, one a line, with a blank where a value is put in."""
    texts = []
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py") if "_pb2" not in path.name):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(v.value) if isinstance(v, ast.Constant) else _LEFT_OUT for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(" ".join(text.split()) for text in texts)


def test_every_message_that_is_quoted_is_one_of_ours() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    said = _said()
    quoted = [" ".join(text.split()) for text in _ITALIC.findall(page)]
    assert len(quoted) > 10
    pieces = [piece.strip(" .,:") for text in quoted for piece in text.split(_LEFT_OUT)]
    assert not [piece for piece in pieces if piece and piece not in said]
