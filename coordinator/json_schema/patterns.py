# SPDX-License-Identifier: MIT
"""The patterns of one schema, each parsed and made a machine once."""

from __future__ import annotations

from coordinator.errors import SchemaError
from coordinator.json_schema.automaton import Matching, TooComplexError, too_complex
from coordinator.json_schema.expression import Expression
from coordinator.json_schema.pattern import PatternError, expression_of
from coordinator.json_schema.shape import Pattern
from coordinator.json_schema.work import Work


class Patterns:
    """Expressions and machines of patterns. Used by one conversion."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._expressions: dict[str, Expression] = {}
        self._machines: dict[tuple[str, bool], Matching] = {}

    def expression(self, pattern: Pattern) -> Expression:
        """The texts in which it is found.

        Raises:
            SchemaError: it is none, or no grammar can keep it.
        """
        if pattern.source not in self._expressions:
            try:
                self._expressions[pattern.source] = expression_of(pattern.source)
            except PatternError as error:
                raise SchemaError(f"`pattern` {pattern.source[:100]!r}: {error}", pattern.place) from None
        return self._expressions[pattern.source]

    def machine(self, pattern: Pattern, *, negated: bool = False) -> Matching:
        """The same, as a condition to be combined with others; with `negated`, its opposite."""
        key = (pattern.source, negated)
        if key not in self._machines:
            try:
                self._machines[key] = Matching(self.expression(pattern), self._work, negated=negated)
            except TooComplexError:
                raise too_complex(f"`pattern` {pattern.source[:100]!r}", pattern.place) from None
        return self._machines[key]

    def matches(self, pattern: Pattern, text: str) -> bool:
        """Whether it is found in the text."""
        return self.machine(pattern).matches(text)
