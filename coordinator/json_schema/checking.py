# SPDX-License-Identifier: MIT
"""Whether a value that a schema lists is of a shape, and whether two shapes can share a value. Pure.

Needed where a schema says more beside `enum` and `const`, and where `oneOf` wants its branches told apart.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from coordinator.json_schema.numbers import Bound
from coordinator.json_schema.patterns import Patterns
from coordinator.json_schema.reading import Reader
from coordinator.json_schema.shape import Items, Json, Node, Properties, Shape, same

_WORK_TO_COMPARE = 8
_MAX_DEPTH = 8
"""Of parts of values that are looked at to tell two shapes apart."""


class Checker:
    """Answers for one schema document."""

    def __init__(self, reader: Reader, patterns: Patterns) -> None:
        self._reader = reader
        self._patterns = patterns

    def holds(self, shape: Shape, value: Json) -> bool:
        """Whether the value is of this shape."""
        self._reader.work.spend(_WORK_TO_COMPARE + len(shape.values or ()))
        if shape.types is not None and not _has_type(value, shape.types):
            return False
        if shape.values is not None and not any(same(value, each) for each in shape.values):
            return False
        if isinstance(value, bool) or value is None:
            return True
        if isinstance(value, int | float):
            return _within(shape, value)
        if isinstance(value, str):
            most = shape.most_length
            is_long = len(value) >= shape.least_length and (most is None or len(value) <= most)
            return is_long and all(self._patterns.matches(pattern, value) for pattern in shape.patterns)
        return self._holds_array(shape, value) if isinstance(value, list) else self._holds_object(shape, value)

    def listed(self, shape: Shape) -> list[Json]:
        """Those of the shape's own values that all else in it allows."""
        others = replace(shape, values=None)
        return [value for value in shape.values or () if self.holds(others, value)]

    def satisfies(self, nodes: tuple[Node, ...], value: Json) -> bool:
        """Whether the value satisfies all these schemas."""
        if any(node.schema is False for node in nodes):
            return False
        return any(self.holds(shape, value) for shape in self._reader.shapes(nodes))

    def _holds_array(self, shape: Shape, value: list[Json]) -> bool:
        if len(value) < shape.least_items or (shape.most_items is not None and len(value) > shape.most_items):
            return False
        if shape.is_unique and any(same(a, b) for i, a in enumerate(value) for b in value[:i]):
            return False
        return all(self.satisfies(nodes_of_item(shape.items, i), item) for i, item in enumerate(value))

    def _holds_object(self, shape: Shape, value: dict[str, Json]) -> bool:
        most = shape.most_properties
        if len(value) < shape.least_properties or (most is not None and len(value) > most):
            return False
        if not all(name in value for name in shape.required):
            return False
        if not all(self.satisfies(shape.property_names, name) for name in value):
            return False
        return all(self.satisfies(self.nodes_of_property(shape.properties, name), part) for name, part in value.items())

    def nodes_of_property(self, groups: tuple[Properties, ...], name: str) -> tuple[Node, ...]:
        """All that is said of the property of this name."""
        found: list[Node] = []
        for group in groups:
            own = [group.named[name]] if name in group.named else []
            own += [node for pattern, node in group.matching if self._patterns.matches(pattern, name)]
            found += own or ([] if group.rest is None else [group.rest])
        return conditions(found)

    def apart(self, written: Shape, other: Shape, depth: int = 0) -> bool:
        """Whether nothing that is written for `written` is of the shape `other`; when in doubt, not."""
        self._reader.work.spend(_WORK_TO_COMPARE)
        if written.values is not None:
            return not any(self.holds(other, value) for value in self.listed(written))
        if other.values is not None:
            return not any(self.holds(written, value) for value in self.listed(other))
        kinds = _kinds(written.told_types)
        shared = kinds if other.types is None else kinds & _kinds(other.types)
        return all(self._apart_as(kind, written, other, depth) for kind in shared)

    def _apart_as(self, kind: str, written: Shape, other: Shape, depth: int) -> bool:
        if kind == "number":
            return _beyond(written.high, other.low) or _beyond(other.high, written.low)
        if kind == "string":
            return _longer(written.least_length, other.most_length) or _longer(other.least_length, written.most_length)
        if kind == "array":
            return _longer(written.least_items, other.most_items) or _longer(other.least_items, written.most_items)
        return kind == "object" and depth < _MAX_DEPTH and self._objects_apart(written, other, depth)

    def _objects_apart(self, written: Shape, other: Shape, depth: int) -> bool:
        if any(not self.may_have(written, name) for name in other.required):
            return True
        for name in written.required:
            mine = self.nodes_of_property(written.properties, name)
            others = self.nodes_of_property(other.properties, name)
            if any(node.schema is False for node in others):
                return True
            pairs = ((a, b) for a in self._reader.shapes(mine) for b in self._reader.shapes(others))
            if all(self.apart(a, b, depth + 1) for a, b in pairs):
                return True
        return False

    def may_have(self, shape: Shape, name: str) -> bool:
        """Whether objects that are written for this shape can have the property."""
        if any(node.schema is False for node in self.nodes_of_property(shape.properties, name)):
            return False
        named = any(name in group.named for group in shape.properties)
        matched = any(self._patterns.matches(p, name) for group in shape.properties for p, _ in group.matching)
        return named or matched or name in shape.required or is_free(shape.properties)


def is_free(groups: tuple[Properties, ...]) -> bool:
    """Whether properties that are not named are written: where nothing is named, or where the schema says so itself."""
    return not groups or any(group.rest is not None for group in groups)


def nodes_of_item(groups: tuple[Items, ...], index: int) -> tuple[Node, ...]:
    """All that is said of an array's item at this index."""
    nodes = [group.first[index] if index < len(group.first) else group.rest for group in groups]
    return conditions([node for node in nodes if node is not None])


def conditions(nodes: list[Node]) -> tuple[Node, ...]:
    """The schemas, each once and in an order of their own, without those that say nothing."""
    told = {node.place: node for node in nodes if node.schema is not True and node.schema != {}}
    return tuple(told[place] for place in sorted(told))


def _kinds(types: frozenset[str]) -> frozenset[str]:
    return frozenset("number" if name == "integer" else name for name in types)


def _has_type(value: Json, types: frozenset[str]) -> bool:
    if value is None:
        return "null" in types
    if isinstance(value, bool):
        return "boolean" in types
    if isinstance(value, int | float):
        return "number" in types or ("integer" in types and value == int(value))
    name = "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"
    return name in types


def _within(shape: Shape, value: int | float) -> bool:
    number = Bound.of(value).value
    if shape.low is not None and (number < shape.low.value or (shape.low.is_open and number == shape.low.value)):
        return False
    if shape.high is not None and (number > shape.high.value or (shape.high.is_open and number == shape.high.value)):
        return False
    return shape.factor is None or number % shape.factor == Fraction(0)


def _beyond(high: Bound | None, low: Bound | None) -> bool:
    """Whether what ends at `high` lies below what begins at `low`."""
    if high is None or low is None:
        return False
    return high.value < low.value or (high.value == low.value and (high.is_open or low.is_open))


def _longer(least: int, most: int | None) -> bool:
    return most is not None and least > most
