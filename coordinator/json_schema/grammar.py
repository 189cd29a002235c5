# SPDX-License-Identifier: MIT
"""The grammar that is being made: named rules, their text in llama.cpp's GBNF, and the bounds that it keeps.

llama.cpp's parser writes a repetition out, and takes none beyond 2000 for what it says; so longer ones are made here of
halves. Source of the syntax: parse_sequence in llama.cpp's src/llama-grammar.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator

from coordinator.errors import SchemaError
from coordinator.json_schema.expression import (
    EMPTY,
    Chars,
    Choice,
    Expression,
    Ranges,
    Reference,
    Repeat,
    Sequence,
    Text,
    choice,
    sequence,
)
from coordinator.json_schema.work import Work

ROOT = "root"

MAX_GRAMMAR_CHARACTERS = 192 * 1024
"""Within what a worker takes with a request (256 KiB)."""
MAX_RULES = 8192

_WRITTEN_OUT = 16
"""Repetitions up to here are left to llama.cpp's parser; it makes a rule of each, and knows at any time which it is in.
Longer ones are of halves: few rules, and as many possible states as a number of that size has bits."""

_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPED_IN_CLASS = {"[": "\\[", "]": "\\]", "-": "\\-", "\\": "\\\\", "^": "\\x5E"}


class Grammar:
    """Rules by name. Used by one conversion, then read as text.

    Args:
        work: what the conversion may do.
        root: name of the rule that it begins at, which the names of all others begin with, unless it is ROOT.
    """

    def __init__(self, work: Work, root: str = ROOT) -> None:
        self.work = work
        self._root = root
        self._prefix = "" if root == ROOT else f"{root}-"
        self._rules: dict[str, Expression] = {}
        self._places: dict[str, str] = {}
        self._names: dict[Expression, str] = {}
        self._halved: dict[tuple[Expression, int, bool], Reference] = {}

    def reserve(self, prefix: str, place: str) -> Reference:
        """A new name, whose rule is yet to be given with `define`.

        Args:
            prefix: letters that the name begins with.
            place: of the schema that it comes from, for sentences.
        """
        if len(self._places) >= MAX_RULES:
            raise SchemaError(f"the schema makes a grammar of more than {MAX_RULES} rules: make it smaller", place)
        name = f"{self._prefix}{prefix}{len(self._places)}"
        self._places[name] = place
        return Reference(name)

    def define(self, reference: Reference, expression: Expression) -> None:
        """Says what a name stands for."""
        self._rules[reference.name] = expression

    def rule(self, prefix: str, expression: Expression, place: str) -> Reference:
        """A rule for the expression: the same one for the same expression."""
        if expression not in self._names:
            reference = self.reserve(prefix, place)
            self._names[expression] = reference.name
            self.define(reference, expression)
        return Reference(self._names[expression])

    def compact(self, expression: Expression, prefix: str, place: str) -> Expression:
        """The expression, by a rule of its own where it is a choice, so that it can be named more than once."""
        return self.rule(prefix, expression, place) if isinstance(expression, Choice) else expression

    def text(self, root: Expression) -> str:
        """The whole grammar, beginning at the expression `root`.

        Raises:
            SchemaError: too large, or a rule that never comes to an end.
        """
        self._rules[self._root] = root
        self._places.setdefault(self._root, "#")
        self._check_ends()
        lines: list[str] = []
        n_characters, done = 0, 0
        names = [self._root, *(name for name in self._rules if name != self._root)]
        while done < len(names):
            name = names[done]
            n_known = len(self._rules)
            lines.append(f"{name} ::= {self._write(self._rules[name], self._places[name])}\n")
            # Long repetitions made further rules.
            names.extend(list(self._rules)[n_known:])
            n_characters += len(lines[-1].encode())
            done += 1
            if n_characters > MAX_GRAMMAR_CHARACTERS:
                limit = f"{MAX_GRAMMAR_CHARACTERS >> 10} KiB"
                raise SchemaError(f"the schema makes a grammar of more than {limit}: make it smaller", "#")
        return "".join(lines)

    def _check_ends(self) -> None:
        """Refuses a rule that each time needs itself once more."""
        ending: set[str] = set()
        waiting = dict(self._rules)
        while found := [name for name, rule in waiting.items() if _ends(rule, ending)]:
            ending.update(found)
            for name in found:
                del waiting[name]
        for name in waiting:
            place = self._places[name]
            raise SchemaError("`$ref` leads back to itself, and no value that it describes comes to an end", place)

    def _write(self, expression: Expression, place: str) -> str:
        if isinstance(expression, Choice):
            return " | ".join(self._write(option, place) for option in expression.options)
        if isinstance(expression, Sequence):
            return " ".join(self._write_item(item, place) for item in expression.items)
        return self._write_item(expression, place)

    def _write_item(self, expression: Expression, place: str) -> str:
        if isinstance(expression, Text):
            return '"' + "".join(_character(char, _ESCAPED) for char in expression.text) + '"'
        if isinstance(expression, Chars):
            return _character_class(expression.ranges)
        if isinstance(expression, Reference):
            return expression.name
        if isinstance(expression, Repeat):
            return self._write_repeat(expression, place)
        return f"({self._write(expression, place)})"

    def _write_repeat(self, repeat: Repeat, place: str) -> str:
        item, least, most = repeat.item, repeat.least, repeat.most
        if not isinstance(item, Chars | Reference):
            item = self.rule("i", item, place)
        if (least, most) in _SUFFIXES:
            return self._write_item(item, place) + _SUFFIXES[(least, most)]
        if max(least, most or 0) <= _WRITTEN_OUT:
            return f"{self._write_item(item, place)}{{{least},{'' if most is None else most}}}"
        more = Repeat(item, 0, None) if most is None else self._up_to(item, most - least, place)
        return f"({self._write(sequence(self._exactly(item, least, place), more), place)})"

    def _exactly(self, item: Expression, count: int, place: str) -> Expression:
        if count <= _WRITTEN_OUT:
            return Repeat(item, count, count) if count else EMPTY
        key = (item, count, True)
        if key not in self._halved:
            half = count // 2
            halves = sequence(self._exactly(item, half, place), self._exactly(item, count - half, place))
            self._halved[key] = self.rule("n", halves, place)
        return self._halved[key]

    def _up_to(self, item: Expression, count: int, place: str) -> Expression:
        """No more than `count`: either half of them and up to the rest, or less than half. One way for each number."""
        if count <= _WRITTEN_OUT:
            return Repeat(item, 0, count) if count else EMPTY
        key = (item, count, False)
        if key not in self._halved:
            half = (count + 1) // 2
            many = sequence(self._exactly(item, half, place), self._up_to(item, count - half, place))
            self._halved[key] = self.rule("m", choice((many, self._up_to(item, half - 1, place))), place)
        return self._halved[key]


_SUFFIXES: dict[tuple[int, int | None], str] = {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}


def _ends(expression: Expression, ending: set[str]) -> bool:
    if isinstance(expression, Reference):
        return expression.name in ending
    if isinstance(expression, Sequence):
        return all(_ends(item, ending) for item in expression.items)
    if isinstance(expression, Choice):
        return any(_ends(option, ending) for option in expression.options)
    return not isinstance(expression, Repeat) or expression.least == 0 or _ends(expression.item, ending)


def _character_class(ranges: Ranges) -> str:
    return "[" + "".join(_class_parts(ranges)) + "]"


def _class_parts(ranges: Ranges) -> Iterator[str]:
    for first, last in ranges:
        yield _character(chr(first), _ESCAPED_IN_CLASS)
        if last > first:
            yield "-" + _character(chr(last), _ESCAPED_IN_CLASS)


def _character(char: str, escapes: dict[str, str]) -> str:
    if char in escapes:
        return escapes[char]
    code = ord(char)
    if char.isascii() and char.isprintable():
        return char
    if escapes is _ESCAPED and char.isprintable():
        return char
    return f"\\x{code:02X}" if code < 0x80 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
