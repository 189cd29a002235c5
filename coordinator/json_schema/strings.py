# SPDX-License-Identifier: MIT
"""Strings of a shape, as JSON writes them: with a pattern, a length, or free."""

from __future__ import annotations

import contextlib

from coordinator.json_schema.automaton import MAX_STATES, Length, Machine, TooComplexError, rules_of, too_complex
from coordinator.json_schema.expression import (
    Chars,
    Choice,
    Expression,
    Repeat,
    Text,
    choice,
    json_text,
    ranges_of,
    sequence,
)
from coordinator.json_schema.grammar import Grammar
from coordinator.json_schema.lengths import most_repeats, shortest, written
from coordinator.json_schema.patterns import Patterns
from coordinator.json_schema.shape import Shape

QUOTE = Text('"')

_FEW_STATES = 256
_SHORT = 32
"""Characters; strings with a pattern may always be so long, if `maxLength` allows it."""

_HEX = Chars(((0x30, 0x39), (0x41, 0x46), (0x61, 0x66)))
_HEX_BUT_D = Chars(((0x30, 0x39), (0x41, 0x43), (0x45, 0x46), (0x61, 0x63), (0x65, 0x66)))
_D = Chars(((0x44, 0x44), (0x64, 0x64)))

# By number: what is not a surrogate, or a pair of them, which together are one character.
_NUMBERED = choice(
    (
        sequence(_HEX_BUT_D, Repeat(_HEX, 3, 3)),
        sequence(_D, Chars(((0x30, 0x37),)), Repeat(_HEX, 2, 2)),
        sequence(
            *(_D, Chars(((0x38, 0x39), (0x41, 0x42), (0x61, 0x62))), Repeat(_HEX, 2, 2), Text("\\u")),
            *(_D, Chars(((0x43, 0x46), (0x63, 0x66))), Repeat(_HEX, 2, 2)),
        ),
    )
)
CHARACTER: Expression = choice(
    (
        Chars(((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0x80, 0xD7FF), (0xE000, 0x10FFFF))),
        sequence(
            Text("\\"),
            choice((Chars(ranges_of((ord(c), ord(c)) for c in '"\\/bfnrt')), sequence(Text("u"), _NUMBERED))),
        ),
    )
)
"""Any one character within a string."""


class Strings:
    """Makes rules for strings. Used by one conversion."""

    def __init__(self, grammar: Grammar, patterns: Patterns) -> None:
        self._grammar = grammar
        self._patterns = patterns
        self._patterned: dict[tuple[frozenset[str], int, int | None], Expression | None] = {}

    def any_string(self) -> Expression:
        """Any string at all."""
        return self._grammar.rule("string", sequence(QUOTE, Repeat(self._character(), 0, None), QUOTE), "#")

    def string(self, shape: Shape) -> Expression | None:
        """Strings of the shape; None if there are none."""
        least, most = shape.least_length, shape.most_length
        if most is not None and most < least:
            return None
        if not shape.patterns:
            if least == 0 and most is None:
                return self.any_string()
            return sequence(QUOTE, Repeat(self._character(), least, most), QUOTE)
        run = self._run(shape)
        if run is not None:
            return sequence(QUOTE, run, QUOTE) if run.most is None or run.least <= run.most else None
        key = (frozenset(pattern.source for pattern in shape.patterns), least, most)
        if key not in self._patterned:
            self._patterned[key] = self._with_patterns(shape)
        return self._patterned[key]

    def _with_patterns(self, shape: Shape) -> Expression | None:
        least, most = shape.least_length, shape.most_length
        machines: list[Machine] = [self._patterns.machine(pattern) for pattern in shape.patterns]
        while most is not None and most // 4 > max(least, _SHORT):
            # A length is as many states as it is long, times those of the pattern: rather shorter strings than none.
            with contextlib.suppress(TooComplexError):
                return self._text([*machines, Length(least, most)], shape.place, _FEW_STATES)
            bounded = self._bounded(shape, most)
            if bounded is not None:
                return sequence(QUOTE, bounded, QUOTE)
            most //= 4
        if least or most is not None:
            machines.append(Length(least, most))
        return self.text(machines, shape.place, "`pattern` with the length")

    def _bounded(self, shape: Shape, most: int) -> Expression | None:
        """The pattern itself, with a bound on how often it repeats instead of a length; None where that cannot be."""
        expression = self._patterns.expression(shape.patterns[0])
        n_repeats = most_repeats(expression, most)
        if len(shape.patterns) > 1 or n_repeats is None or shortest(expression) < shape.least_length:
            return None
        return written(expression, n_repeats)

    def text(self, machines: list[Machine], place: str, what: str) -> Expression | None:
        """Strings of which all machines' conditions hold."""
        try:
            return self._text(machines, place, MAX_STATES)
        except TooComplexError:
            raise too_complex(what, place) from None

    def _text(self, machines: list[Machine], place: str, max_states: int) -> Expression | None:
        start = rules_of(machines, self._grammar, place, end=QUOTE, write=json_text, max_states=max_states)
        return None if start is None else sequence(QUOTE, start)

    def _run(self, shape: Shape) -> Repeat | None:
        """A pattern that is one kind of character so and so often, which is common, with the shape's own length."""
        if len(shape.patterns) > 1:
            return None
        expression = self._patterns.expression(shape.patterns[0])
        if isinstance(expression, Chars):
            expression = Repeat(expression, 1, 1)
        if not isinstance(expression, Repeat) or not isinstance(expression.item, Chars):
            return None
        written = json_text(expression.item.ranges)
        if isinstance(written, Choice) and not written.options:
            return None
        item = self._grammar.compact(written, "c", shape.place)
        ends = [most for most in (expression.most, shape.most_length) if most is not None]
        return Repeat(item, max(expression.least, shape.least_length), min(ends, default=None))

    def _character(self) -> Expression:
        return self._grammar.rule("char", CHARACTER, "#")


__all__ = ["CHARACTER", "QUOTE", "Strings"]
