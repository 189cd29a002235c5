# SPDX-License-Identifier: MIT
"""The grammar of a whole answer, in llama.cpp's GBNF: thoughts, text, and calls that are valid by their schemas. Pure.

llama-server leaves text before a call without a grammar, and has one begin where a pattern in the text says so
("lazy"). Here the text is part of the grammar: anything at all that is not the beginning of a call. That is as free,
and nothing has to be found in the middle of a token, looked for in all of the text at each token, or forgotten when a
sampler is made anew on another worker.
"""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.errors import InvalidRequestError, SchemaError
from coordinator.json_schema import ROOT, Work, grammar_of

BLANK = "ws"
"""Name of the rule for blanks between the parts of a call: none, one, or a line or two with up to 16."""

_BLANKS = r" \t\r\n"
"""Blanks, as a class of characters has them."""

_MAX_CHARACTERS = 240 * 1024
"""Within what a worker takes with a request (256 KiB)."""


class Rules:
    """The rules of one grammar, by name."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {BLANK: f'{BLANK} ::= | " " | "\\n"{{1,2}} [ \\t]{{0,16}}\n'}
        self._work = Work()

    def add(self, name: str, body: str) -> str:
        """A rule; gives its name."""
        self._lines[name] = f"{name} ::= {body}\n"
        return name

    def schema(self, name: str, schema: Mapping[str, object] | bool, place: str) -> str:
        """The rule for what is valid by a JSON schema; gives its name.

        Args:
            place: of the schema in the request, for sentences.

        Raises:
            SchemaError: as `grammar_of`, with the place in the request.
        """
        self._lines[name] = self._made(schema, name, place)
        return name

    def check(self, schema: Mapping[str, object] | bool, place: str) -> None:
        """Refuses a schema that `schema` would."""
        self._made(schema, ROOT, place)

    def until(self, name: str, words: Mapping[str, str | None], *, may_end: bool = True) -> str:
        """The rule for any text in which none of the words occurs, or which goes on after the first one that does.

        Args:
            words: with what follows each; None: it may not occur.
            may_end: whether the text may do without.
        """
        states = sorted({word[:n] for word in words for n in range(len(word))}, key=lambda state: (len(state), state))
        names = {state: f"{name}-{number}" if state else name for number, state in enumerate(states)}
        alphabet = sorted({char for word in words for char in word})
        for state in states:
            follows = {char: _follows(state + char, words, names) for char in alphabet}
            leading = [char for char in alphabet if follows[char] != name]
            options = [""] if may_end else []
            options.append(f"{none_of(leading)} {name}")
            options += [f"{quoted(char)} {follows[char]}" for char in leading if follows[char] is not None]
            self.add(names[state], " | ".join(options))
        return name

    def beginning(self, name: str, words: Mapping[str, str], otherwise: str) -> str:
        """The rule for a text that begins with one of the words, maybe behind blanks, with what follows each; or else
        goes on as `otherwise` says, which may be any text."""
        states = sorted({word[:n] for word in words for n in range(len(word))})
        names = {state: f"{name}-{number}" if state else name for number, state in enumerate(states)}
        for state in states:
            chars = sorted({word[len(state)] for word in words if word.startswith(state) and word != state})
            blanks = "" if state else _BLANKS
            options = ["", *([f"[{_BLANKS}] {name}"] if blanks else []), f"{none_of(chars, blanks)} {otherwise}"]
            for char in chars:
                longer = state + char
                options.append(f"{quoted(char)} {words[longer] if longer in words else names[longer]}")
            self.add(names[state], " | ".join(options))
        return name

    def _made(self, schema: Mapping[str, object] | bool, root: str, place: str) -> str:
        try:
            return grammar_of(schema, root=root, work=self._work)
        except SchemaError as error:
            raise SchemaError(error.problem, f"{place}{error.place}") from None

    def text(self, root: str) -> str:
        """The whole grammar, which begins as `root` says.

        Raises:
            InvalidRequestError: it is too large.
        """
        text = f"{ROOT} ::= {root}\n" + "".join(self._lines.values())
        if len(text.encode()) > _MAX_CHARACTERS:
            limit = f"{_MAX_CHARACTERS >> 10} KiB"
            raise InvalidRequestError(f"the tools make a grammar of more than {limit}: send fewer, or simpler ones")
        return text


def quoted(text: str) -> str:
    """A text as it stands."""
    return '"' + "".join(char if _is_plain(char) else _escaped(char) for char in text) + '"'


def none_of(chars: list[str], more: str = "") -> str:
    """Any character but these; `more` are such as a class has them."""
    return "[^" + "".join(map(_escaped, chars)) + more + "]" if chars else "."


def _follows(text: str, words: Mapping[str, str | None], names: Mapping[str, str]) -> str | None:
    """What follows after this much was seen: a word's own rule, or the state of what may become one."""
    for start in range(len(text)):
        if text[start:] in words:
            return words[text[start:]]
    return next(names[text[start:]] for start in range(len(text) + 1) if text[start:] in names)


def _is_plain(char: str) -> bool:
    return char.isascii() and char.isprintable() and char not in '"\\'


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02X}" if code < 0x80 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
