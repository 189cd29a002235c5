# SPDX-License-Identifier: MIT
"""Objects and arrays: which members come in which order, and how many. Knows rules of members, not schemas."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.errors import SchemaError
from coordinator.json_schema.expression import EMPTY, Expression, Reference, Repeat, Text, choice, sequence
from coordinator.json_schema.grammar import Grammar

# One space, or a line and its indentation: models like both, and neither may go on for ever.
SPACE: Expression = choice((EMPTY, Text(" "), sequence(Text("\n"), Repeat(Text(" "), 0, 16))))

_MAX_COUNTED = 1 << 14
"""Members times counts that must be told apart."""


@dataclass(frozen=True, slots=True)
class Member:
    """What may stand at a place, or must."""

    expression: Expression
    is_required: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """How many members there are, at least and at most."""

    least: int
    most: int | None


class Containers:
    """Makes rules for lists of members between two brackets. Used by one conversion."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar

    def space(self) -> Reference:
        """Where JSON allows space and people put it."""
        return self._grammar.rule("ws", SPACE, "#")

    def some_of(
        self, brackets: str, members: list[Member], rest: Expression | None, counts: Counts, place: str
    ) -> Expression | None:
        """The members in their order, those that are not required or left out, then as many of `rest` as may be.

        Args:
            brackets: the opening one and the closing one.
            members: in their order.
            rest: what follows them, any number of times; None: nothing.
            counts: how many there are in all. Of `rest` one counts at most for the least: others may be the same.
            place: in the schema.

        Returns:
            None if so many there cannot be.

        Raises:
            SchemaError: it would need too many rules.
        """
        least, most = counts.least, counts.most
        if rest is None and most is not None and most >= len(members):
            most = None
        if sum(member.is_required for member in members) >= least:
            least = 0
        # Beyond this, counts need not be told apart.
        cap = max(1, min(least, len(members)), 0 if most is None else min(most, len(members)))
        if cap * len(members) > _MAX_COUNTED:
            raise SchemaError(f"{len(members)} properties or values are too many to be counted: use fewer", place)
        tails = [self._tail(rest, n, least, most, brackets) for n in range(cap + 1)]
        for member in reversed(members):
            tails = [self._before(member, tails, n, most, place) for n in range(cap + 1)]
        return None if tails[0] is None else sequence(Text(brackets[0]), self.space(), tails[0])

    def in_order(
        self, first: list[Expression], rest: Expression | None, counts: Counts, place: str
    ) -> Expression | None:
        """An array of the first items, each at its place, then of `rest`; None if so many there cannot be."""
        least, most = counts.least, counts.most
        if most is not None and most < len(first):
            first, rest = first[:most], None
        n_first = len(first)
        need, room = max(0, least - n_first), None if most is None else most - n_first
        if (rest is None and need) or (room is not None and room < need):
            return None
        more = self._more(rest, need, room, is_first=not first)
        tail = sequence(more, self._closing("[]"))
        for i in reversed(range(n_first)):
            tail = sequence(*([self._comma()] if i else []), first[i], self._grammar.compact(tail, "o", place))
            if i >= least:
                tail = choice((self._closing("[]"), tail))
        return sequence(Text("["), self.space(), self._grammar.compact(tail, "o", place))

    def _more(self, rest: Expression | None, need: int, room: int | None, *, is_first: bool) -> Expression:
        if rest is None or room == 0:
            return EMPTY
        more = sequence(self._comma(), rest)
        if not is_first:
            return Repeat(more, need, room)
        some = sequence(rest, Repeat(more, max(0, need - 1), None if room is None else room - 1))
        return some if need else Repeat(some, 0, 1)

    def _before(
        self, member: Member, tails: list[Expression | None], n: int, most: int | None, place: str
    ) -> Expression | None:
        """What follows where `n` members were written, this one is next, and `tails` come after it."""
        options: list[Expression] = []
        after = tails[min(len(tails) - 1, n + 1)]
        if after is not None and (most is None or n < most):
            following = self._grammar.compact(after, "o", place)
            options.append(sequence(*([self._comma()] if n else []), member.expression, following))
        without = tails[n]
        if not member.is_required and without is not None:
            options.append(self._grammar.compact(without, "o", place))
        return choice(options) if options else None

    def _tail(self, rest: Expression | None, n: int, least: int, most: int | None, brackets: str) -> Expression | None:
        """What follows the last of the named members when `n` were written."""
        need, room = max(0, least - n), None if most is None else most - n
        if need > (0 if rest is None else 1) or (room is not None and room < need):
            return None
        return sequence(self._more(rest, need, room, is_first=n == 0), self._closing(brackets))

    def _closing(self, brackets: str) -> Expression:
        return sequence(self.space(), Text(brackets[1]))

    def _comma(self) -> Expression:
        return sequence(Text(","), self.space())


__all__ = ["SPACE", "Containers", "Counts", "Member"]
