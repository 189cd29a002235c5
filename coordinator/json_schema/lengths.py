# SPDX-License-Identifier: MIT
"""How long the texts of an expression are, and the same expression without its longest ones. Pure."""

from __future__ import annotations

from coordinator.json_schema.expression import (
    Chars,
    Choice,
    Expression,
    Reference,
    Repeat,
    Sequence,
    Text,
    choice,
    json_text,
    sequence,
)


def shortest(expression: Expression) -> int:
    """Characters of the shortest text."""
    if isinstance(expression, Chars):
        return 1
    if isinstance(expression, Text):
        return len(expression.text)
    if isinstance(expression, Sequence):
        return sum(shortest(item) for item in expression.items)
    if isinstance(expression, Choice):
        return min((shortest(option) for option in expression.options), default=0)
    assert not isinstance(expression, Reference)
    return expression.least * shortest(expression.item)


def longest(expression: Expression, most_repeats: int) -> int:
    """Characters of the longest text, if what repeats without a bound does so `most_repeats` times at most."""
    if isinstance(expression, Chars):
        return 1
    if isinstance(expression, Text):
        return len(expression.text)
    if isinstance(expression, Sequence):
        return sum(longest(item, most_repeats) for item in expression.items)
    if isinstance(expression, Choice):
        return max((longest(option, most_repeats) for option in expression.options), default=0)
    assert not isinstance(expression, Reference)
    return _most(expression, most_repeats) * longest(expression.item, most_repeats)


def most_repeats(expression: Expression, n_characters: int) -> int | None:
    """How often it may repeat what has no bound, so that no text is longer; None: it is too long anyway."""
    low, high = 0, n_characters
    if longest(expression, low) > n_characters:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (low, middle - 1) if longest(expression, middle) > n_characters else (middle, high)
    return low


def written(expression: Expression, most_repeats: int) -> Expression | None:
    """The expression as JSON writes its texts within a string; None where something repeats that may be empty, which
    llama.cpp takes for a rule that begins with itself."""
    if isinstance(expression, Chars):
        return json_text(expression.ranges)
    if isinstance(expression, Text):
        return sequence(*(json_text(((ord(char), ord(char)),)) for char in expression.text))
    if isinstance(expression, Sequence | Choice):
        parts = expression.items if isinstance(expression, Sequence) else expression.options
        made = [written(part, most_repeats) for part in parts]
        whole = [part for part in made if part is not None]
        if len(whole) < len(made):
            return None
        return sequence(*whole) if isinstance(expression, Sequence) else choice(whole)
    assert not isinstance(expression, Reference)
    item = written(expression.item, most_repeats)
    if item is None or shortest(expression.item) == 0:
        return None
    return Repeat(item, expression.least, _most(expression, most_repeats))


def _most(repeat: Repeat, most_repeats: int) -> int:
    return max(repeat.least, most_repeats) if repeat.most is None else repeat.most
