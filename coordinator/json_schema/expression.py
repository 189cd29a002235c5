# SPDX-License-Identifier: MIT
"""Expressions over characters: what patterns, ranges of numbers and whole grammars are made of. Pure data.

An expression speaks either of a string's characters or of JSON's own text; `json_text` turns the first into the second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

LAST_CHARACTER = 0x10FFFF

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Code points, as sorted ranges that do not touch; both ends are in."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of these."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Text:
    """These characters, in this order; may be none."""

    text: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these; of none, nothing matches."""

    options: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """At least and at most so often; without `most`, as often as one likes."""

    item: Expression
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Reference:
    """A rule of the grammar, by name."""

    name: str


Expression: TypeAlias = Chars | Text | Sequence | Choice | Repeat | Reference

EMPTY = Text("")
ANY_CHARACTER = Chars(((0, LAST_CHARACTER),))
DIGIT = Chars(((0x30, 0x39),))


def sequence(*items: Expression) -> Expression:
    """The items in their order, without empty ones and without sequences in a sequence."""
    flat: list[Expression] = []
    for item in items:
        flat.extend(item.items if isinstance(item, Sequence) else () if item == EMPTY else (item,))
    return flat[0] if len(flat) == 1 else Sequence(tuple(flat)) if flat else EMPTY


def choice(options: Iterable[Expression]) -> Expression:
    """One of the options, each of which is told once."""
    flat = tuple(dict.fromkeys(options))
    return flat[0] if len(flat) == 1 else Choice(flat)


def ranges_of(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """Any ranges as sorted ones that do not touch."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(pairs):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def all_but(ranges: Ranges) -> Ranges:
    """The characters that are not in `ranges`."""
    gaps, start = [], 0
    for first, last in ranges:
        if start < first:
            gaps.append((start, first - 1))
        start = last + 1
    if start <= LAST_CHARACTER:
        gaps.append((start, LAST_CHARACTER))
    return tuple(gaps)


def both(some: Ranges, others: Ranges) -> Ranges:
    """The characters that are in the one and in the other."""
    pairs = ((max(a, c), min(b, d)) for a, b in some for c, d in others)
    return ranges_of((first, last) for first, last in pairs if first <= last)


# What a JSON string holds as it is: no quote, no backslash, no control character, and no half of a surrogate pair.
_AS_THEY_ARE: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0xD7FF), (0xE000, LAST_CHARACTER))
_SHORT_ESCAPES = {0x22: '\\"', 0x5C: "\\\\", 0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0C: "\\f", 0x0D: "\\r"}
_FIRST_AS_IT_IS = 0x20


def json_text(ranges: Ranges) -> Expression:
    """How JSON writes one of these characters within a string. Each has one way only, so that what differs in JSON
    differs in truth."""
    options: list[Expression] = []
    plain = both(ranges, _AS_THEY_ARE)
    if plain:
        options.append(Chars(plain))
    controls = [code for code in range(_FIRST_AS_IT_IS) if contains(ranges, code)]
    options.extend(Text(_SHORT_ESCAPES.get(code, f"\\u{code:04x}")) for code in controls)
    options.extend(Text(_SHORT_ESCAPES[code]) for code in (0x22, 0x5C) if contains(ranges, code))
    return choice(options)


def contains(ranges: Ranges, code: int) -> bool:
    """Whether the character is one of them."""
    return any(first <= code <= last for first, last in ranges)
