# SPDX-License-Identifier: MIT
"""A shape: conditions on one value that hold all at once, with no choice left but of its type. Pure data.

`reading` makes shapes of a schema, `merged` joins two, `contradiction` says which can be left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from coordinator.json_schema.numbers import MAX_BOUND, Bound

Json: TypeAlias = Any
"""What a JSON text says: None, booleans, numbers, strings, lists and dictionaries."""

ALL_TYPES = frozenset({"null", "boolean", "number", "string", "array", "object"})


@dataclass(frozen=True, slots=True)
class Node:
    """A schema at its place in the document: the place says which one it is."""

    place: str
    schema: Json

    def __hash__(self) -> int:
        return hash(self.place)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.place == other.place


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression, and the keyword that it comes from with its place."""

    source: str
    place: str


@dataclass(frozen=True, slots=True)
class Properties:
    """What one schema object says of an object's properties.

    Attributes:
        named: by name.
        matching: by pattern.
        rest: all others; None: not a word of them.
    """

    named: Mapping[str, Node]
    matching: tuple[tuple[Pattern, Node], ...] = ()
    rest: Node | None = None


@dataclass(frozen=True, slots=True)
class Items:
    """What one schema object says of an array's items: of the first ones, and of all others (None: not a word)."""

    first: tuple[Node, ...]
    rest: Node | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """All that is said of a value; what is left at its default is not said.

    Attributes:
        types: JSON's, and "integer"; None: any.
        values: one of these; None: any.
        choices: the branches of `oneOf` that it comes from, by place.
    """

    place: str
    types: frozenset[str] | None = None
    values: tuple[Json, ...] | None = None
    low: Bound | None = None
    high: Bound | None = None
    factor: int | None = None
    least_length: int = 0
    most_length: int | None = None
    patterns: tuple[Pattern, ...] = ()
    properties: tuple[Properties, ...] = ()
    required: tuple[str, ...] = ()
    property_names: tuple[Node, ...] = ()
    least_properties: int = 0
    most_properties: int | None = None
    items: tuple[Items, ...] = ()
    least_items: int = 0
    most_items: int | None = None
    is_unique: bool = False
    choices: tuple[tuple[str, int], ...] = ()

    @property
    def told_types(self) -> frozenset[str]:
        """The types; where none are told, those of which something is said; where nothing is, all."""
        if self.types is not None:
            return self.types
        said = {
            "number": self.low or self.high or self.factor,
            "string": self.least_length or self.most_length is not None or self.patterns,
            "object": self.properties or self.required or self.property_names or self.least_properties
            or self.most_properties is not None,
            "array": self.items or self.least_items or self.most_items is not None or self.is_unique,
        }  # fmt: skip
        return frozenset(name for name, what in said.items() if what) or ALL_TYPES


def merged(one: Shape, other: Shape) -> Shape:
    """Both at once."""
    return replace(
        one,
        types=_types(one.types, other.types),
        values=_values(one.values, other.values),
        low=max((b for b in (one.low, other.low) if b), key=lambda b: (b.value, b.is_open), default=None),
        high=min((b for b in (one.high, other.high) if b), key=lambda b: (b.value, not b.is_open), default=None),
        factor=_least_common(one.factor, other.factor),
        least_length=max(one.least_length, other.least_length),
        most_length=_smaller(one.most_length, other.most_length),
        patterns=tuple(dict.fromkeys(one.patterns + other.patterns)),
        properties=one.properties + other.properties,
        required=tuple(dict.fromkeys(one.required + other.required)),
        property_names=tuple(dict.fromkeys(one.property_names + other.property_names)),
        least_properties=max(one.least_properties, other.least_properties),
        most_properties=_smaller(one.most_properties, other.most_properties),
        items=one.items + other.items,
        least_items=max(one.least_items, other.least_items),
        most_items=_smaller(one.most_items, other.most_items),
        is_unique=one.is_unique or other.is_unique,
        choices=tuple(dict.fromkeys(one.choices + other.choices)),
    )


def contradiction(shape: Shape) -> str | None:
    """Why nothing can be of this shape, as far as one look at it says; None: something may be."""
    if shape.types is not None and not shape.types:
        return "`type` allows nothing that the other schemas of this value allow"
    if shape.values is not None and not shape.values:
        return "`enum` and `const` leave no value"
    if shape.told_types <= {"number", "integer"} and shape.low and shape.high:
        low, high = shape.low, shape.high
        if low.value > high.value or (low.value == high.value and (low.is_open or high.is_open)):
            return f"`minimum` {low} and `maximum` {high} leave no number"
    if shape.told_types <= {"number", "integer"} and (
        (shape.low and shape.low.value > MAX_BOUND) or (shape.high and shape.high.value < -MAX_BOUND)
    ):
        return f"`minimum` and `maximum` lie beyond {float(MAX_BOUND):g}"
    return next(
        (
            f"`min{name}` {least} and `max{name}` {most} leave nothing"
            for kind, name, least, most in (
                ("string", "Length", shape.least_length, shape.most_length),
                ("object", "Properties", shape.least_properties, shape.most_properties),
                ("array", "Items", shape.least_items, shape.most_items),
            )
            if shape.told_types == {kind} and most is not None and least > most
        ),
        None,
    )


def same(one: Json, other: Json) -> bool:
    """Whether two JSON values are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return type(one) is type(other) and one == other if isinstance(one, str) else bool(one == other)


def _types(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    if one is None or other is None:
        return other if one is None else one
    shared = one & other
    if "number" in one | other and "integer" in one | other and "number" not in shared:
        shared |= {"integer"}
    return shared


def _values(one: tuple[Json, ...] | None, other: tuple[Json, ...] | None) -> tuple[Json, ...] | None:
    if one is None or other is None:
        return other if one is None else one
    return tuple(value for value in one if any(same(value, each) for each in other))


def _least_common(one: int | None, other: int | None) -> int | None:
    return math.lcm(one, other) if one and other else one or other


def _smaller(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)
