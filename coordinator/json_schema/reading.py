# SPDX-License-Identifier: MIT
"""From a JSON schema to the shapes that its values may have: references followed, `allOf`, `anyOf`, `oneOf` laid out.

Drafts 4 to 2020-12, by whatever of them is used. A keyword that none of them knows is a note (as they say), one that
they know and no grammar can keep is refused; so is everything whose ignoring could let something invalid through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import unquote

from coordinator.errors import SchemaError
from coordinator.json_schema.formats import FORMATS
from coordinator.json_schema.numbers import Bound
from coordinator.json_schema.shape import (
    ALL_TYPES,
    Items,
    Json,
    Node,
    Pattern,
    Properties,
    Shape,
    contradiction,
    merged,
)
from coordinator.json_schema.work import Work

MAX_SHAPES = 256
"""Ways that one value's conditions can hold: `anyOf` within `allOf` multiplies them."""
MAX_COUNT = 1 << 20
"""Of characters, items or properties that must be there at least; more than a context has room for."""
_MAX_DEPTH = 64
_MAX_FACTOR = 1000
_WORK_TO_MERGE = 16
"""Steps that joining two shapes takes."""

_UNSUPPORTED = {
    "not": "say what is allowed instead",
    "if": "use `anyOf` with the cases", "then": "use `anyOf` with the cases", "else": "use `anyOf` with the cases",
    "contains": "describe all `items` instead",
    "minContains": "describe all `items` instead", "maxContains": "describe all `items` instead",
    "dependentRequired": "use `anyOf` with the cases", "dependentSchemas": "use `anyOf` with the cases",
    "dependencies": "use `anyOf` with the cases",
    "$dynamicRef": "use `$ref`", "$recursiveRef": "use `$ref`",
    "extends": "use `allOf`", "disallow": "say what is allowed instead", "divisibleBy": "use `multipleOf`",
}  # fmt: skip


class Reader:
    """One schema document. Used by one conversion.

    Args:
        document: the whole schema.
        work: what the conversion may do.
    """

    def __init__(self, document: Json, work: Work) -> None:
        self.work = work
        self.root = Node("#", document)
        self._known: dict[tuple[Node, ...], list[Shape]] = {}

    def shapes(self, nodes: tuple[Node, ...]) -> list[Shape]:
        """The shapes of a value that satisfies all `nodes`, at least one.

        Raises:
            SchemaError: nothing satisfies them, or something in them cannot be kept.
        """
        if nodes not in self._known:
            found = [Shape(nodes[0].place if nodes else "#")]
            for node in nodes:
                found = self._product(found, self._expand(node, ()), node)
            self._known[nodes] = _possible(found, nodes[0] if nodes else self.root)
        return self._known[nodes]

    def _expand(self, node: Node, within: tuple[str, ...]) -> list[Shape]:
        """The shapes of one schema, before it is known what others say of the value.

        Args:
            node: the schema.
            within: places of the schemas that led here without going into a part of the value.
        """
        if node.place in within:
            raise SchemaError("`$ref` leads back to itself without an end", node.place)
        if len(within) > _MAX_DEPTH:
            raise SchemaError(f"schemas lie more than {_MAX_DEPTH} deep in one another: use fewer", node.place)
        if isinstance(node.schema, bool):
            return [Shape(node.place)] if node.schema else []
        within = (*within, node.place)
        schema = _object_of(node)
        _refuse_unsupported(schema, node)
        found = [_own_shape(schema, node)]
        if "$ref" in schema:
            found = self._product(found, self._expand(self.resolve(schema["$ref"], node), within), node)
        for part in _parts(schema, "allOf", node):
            found = self._product(found, self._expand(part, within), node)
        if "anyOf" in schema:
            branches = [self._expand(part, within) for part in _parts(schema, "anyOf", node)]
            found = self._product(found, [shape for branch in branches for shape in branch], node)
        if "oneOf" in schema:
            place = f"{node.place}/oneOf"
            parts = _parts(schema, "oneOf", node)
            chosen = [_chosen(shape, place, i) for i, part in enumerate(parts) for shape in self._expand(part, within)]
            found = self._product(found, chosen, node)
        return found

    def _product(self, some: list[Shape], others: list[Shape], node: Node) -> list[Shape]:
        if len(some) * len(others) > MAX_SHAPES:
            message = f"its `anyOf` and `oneOf` can be combined in more than {MAX_SHAPES} ways: use fewer"
            raise SchemaError(message, node.place)
        for one in some:
            self.work.spend(sum(_WORK_TO_MERGE + len(one.values or ()) * len(other.values or ()) for other in others))
        return [merged(one, other) for one in some for other in others]

    def resolve(self, reference: Json, node: Node) -> Node:
        """The schema that a `$ref` names."""
        if not isinstance(reference, str):
            raise SchemaError("`$ref` is not a string", node.place)
        root = self.root.schema
        base = root.get("$id") if isinstance(root, dict) else None
        address, _, fragment = reference.partition("#")
        if address and address != (base.partition("#")[0] if isinstance(base, str) else None):
            raise SchemaError(f"`$ref` {reference[:100]!r} names another document: put it into `$defs`", node.place)
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            return self._anchor(fragment, node)
        place, found = "#", root
        for step in fragment.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isascii() and name.isdigit() and len(name) < 9:
                found = found[int(name)] if int(name) < len(found) else None
            else:
                found = found.get(name) if isinstance(found, dict) else None
            place = f"{place}/{step}"
            if found is None:
                raise SchemaError(f"`$ref` {reference[:100]!r} names nothing that is there", node.place)
        return Node(place, found)

    def _anchor(self, name: str, node: Node) -> Node:
        todo = [self.root]
        for each in todo:
            if isinstance(each.schema, dict) and name in (
                each.schema.get("$anchor"),
                each.schema.get("$dynamicAnchor"),
            ):
                return each
            parts = each.schema.items() if isinstance(each.schema, dict) else enumerate(each.schema)
            todo.extend(_child(each, key, value) for key, value in parts if isinstance(value, dict | list))
        raise SchemaError(f"`$ref` to the anchor {name[:100]!r}, which is not there", node.place)


def _possible(shapes: list[Shape], node: Node) -> list[Shape]:
    possible = [shape for shape in shapes if contradiction(shape) is None]
    if not possible:
        problem = contradiction(shapes[0]) if shapes else None
        raise SchemaError(problem or "nothing can be valid here: the schema is `false`", node.place)
    return possible


def _chosen(shape: Shape, place: str, branch: int) -> Shape:
    return merged(shape, Shape(shape.place, choices=((place, branch),)))


def _own_shape(schema: Mapping[str, Json], node: Node) -> Shape:
    """What a schema's own keywords say, without those that lead to other schemas of the same value."""
    shape = Shape(node.place)
    for name, read in _READERS.items():
        if name in schema:
            shape = merged(shape, read(schema, node))
    for names, read in _GROUPED.items():
        if any(name in schema for name in names):
            shape = merged(shape, read(schema, node))
    return shape


def _refuse_unsupported(schema: Mapping[str, Json], node: Node) -> None:
    for name, instead in _UNSUPPORTED.items():
        if name in schema and not (name in ("then", "else") and "if" not in schema):
            raise SchemaError(f"`{name}` cannot be kept by a grammar: {instead}", node.place)


def _read_type(schema: Mapping[str, Json], node: Node) -> Shape:
    told = schema["type"]
    types = frozenset(told) if isinstance(told, list) and all(isinstance(t, str) for t in told) else frozenset({told}) \
        if isinstance(told, str) else frozenset()  # fmt: skip
    if not types or not types <= ALL_TYPES | {"integer"}:
        raise SchemaError(f"`type` {str(told)[:60]} is none of JSON's types", node.place)
    return Shape(node.place, types=types - {"integer"} if "number" in types else types)


def _read_values(name: str) -> Callable[[Mapping[str, Json], Node], Shape]:
    def read(schema: Mapping[str, Json], node: Node) -> Shape:
        values = [schema[name]] if name == "const" else schema[name]
        if not isinstance(values, list) or not values:
            raise SchemaError("`enum` is not a list of values", node.place)
        return Shape(node.place, values=tuple(values))

    return read


def _read_minimum(schema: Mapping[str, Json], node: Node) -> Shape:
    return Shape(node.place, low=_bound(schema, "minimum", "exclusiveMinimum", node))


def _read_maximum(schema: Mapping[str, Json], node: Node) -> Shape:
    return Shape(node.place, high=_bound(schema, "maximum", "exclusiveMaximum", node))


def _read_open(keyword: str, which: str) -> Callable[[Mapping[str, Json], Node], Shape]:
    def read(schema: Mapping[str, Json], node: Node) -> Shape:
        # In draft 4 it is a word on `minimum`, which is read there.
        if isinstance(schema[keyword], bool):
            return Shape(node.place)
        bound = Bound.of(_number(schema, keyword, node), is_open=True)
        return Shape(node.place, low=bound) if which == "low" else Shape(node.place, high=bound)

    return read


def _bound(schema: Mapping[str, Json], name: str, exclusive: str, node: Node) -> Bound:
    return Bound.of(_number(schema, name, node), is_open=schema.get(exclusive) is True)


def _read_factor(schema: Mapping[str, Json], node: Node) -> Shape:
    factor = _number(schema, "multipleOf", node)
    if factor <= 0 or factor != int(factor) or factor > _MAX_FACTOR:
        raise SchemaError(f"`multipleOf` {factor:g} cannot be kept: use an integer from 1 to {_MAX_FACTOR}", node.place)
    return Shape(node.place, factor=int(factor))


def _read_pattern(schema: Mapping[str, Json], node: Node) -> Shape:
    if not isinstance(schema["pattern"], str):
        raise SchemaError("`pattern` is not a string", node.place)
    return Shape(node.place, patterns=(Pattern(schema["pattern"], f"{node.place}/pattern"),))


def _read_format(schema: Mapping[str, Json], node: Node) -> Shape:
    source = FORMATS.get(schema["format"]) if isinstance(schema["format"], str) else None
    return Shape(node.place, patterns=(Pattern(source, f"{node.place}/format"),) if source else ())


def _read_count(name: str, field: str) -> Callable[[Mapping[str, Json], Node], Shape]:
    def read(schema: Mapping[str, Json], node: Node) -> Shape:
        count = _number(schema, name, node)
        if count != int(count) or count < 0:
            raise SchemaError(f"`{name}` {count:g} is no count", node.place)
        if field.startswith("least") and count > MAX_COUNT:
            raise SchemaError(f"`{name}` {count:g} is more than can be written: at most {MAX_COUNT}", node.place)
        counts: dict[str, Json] = {field: int(count)}
        return Shape(node.place, **counts)

    return read


def _read_properties(schema: Mapping[str, Json], node: Node) -> Shape:
    """All keywords on properties that speak of one another. `unevaluatedProperties` needs no more than that nothing is
    written of which no other keyword speaks."""
    named = _named(schema, "properties", node)
    matching = tuple(
        (Pattern(source, f"{node.place}/patternProperties"), part)
        for source, part in _named(schema, "patternProperties", node).items()
    )
    rest = schema.get("additionalProperties")
    return Shape(
        node.place,
        properties=(Properties(named, matching, None if rest is None else _child(node, "additionalProperties", rest)),),
    )


def _read_property_names(schema: Mapping[str, Json], node: Node) -> Shape:
    return Shape(node.place, property_names=(_child(node, "propertyNames", schema["propertyNames"]),))


def _read_required(schema: Mapping[str, Json], node: Node) -> Shape:
    required = schema["required"]
    # Draft 3 has a boolean within the property.
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise SchemaError("`required` is not a list of names", node.place)
    return Shape(node.place, required=tuple(dict.fromkeys(required)))


def _read_items(schema: Mapping[str, Json], node: Node) -> Shape:
    """`prefixItems` and `items`, or before 2020 `items` as a list and `additionalItems`."""
    name, rest_name = "prefixItems", "items"
    if isinstance(schema.get("items"), list):
        name, rest_name = "items", "additionalItems"
    first = _parts(schema, name, node) if name in schema else []
    rest = schema.get(rest_name, schema.get("unevaluatedItems"))
    return Shape(node.place, items=(Items(tuple(first), None if rest is None else _child(node, rest_name, rest)),))


def _read_unique(schema: Mapping[str, Json], node: Node) -> Shape:
    if not isinstance(schema["uniqueItems"], bool):
        raise SchemaError("`uniqueItems` is neither true nor false", node.place)
    return Shape(node.place, is_unique=schema["uniqueItems"])


_READERS: Mapping[str, Callable[[Mapping[str, Json], Node], Shape]] = {
    "type": _read_type,
    "enum": _read_values("enum"),
    "const": _read_values("const"),
    "minimum": _read_minimum,
    "maximum": _read_maximum,
    "exclusiveMinimum": _read_open("exclusiveMinimum", "low"),
    "exclusiveMaximum": _read_open("exclusiveMaximum", "high"),
    "multipleOf": _read_factor,
    "pattern": _read_pattern,
    "format": _read_format,
    "minLength": _read_count("minLength", "least_length"),
    "maxLength": _read_count("maxLength", "most_length"),
    "minProperties": _read_count("minProperties", "least_properties"),
    "maxProperties": _read_count("maxProperties", "most_properties"),
    "minItems": _read_count("minItems", "least_items"),
    "maxItems": _read_count("maxItems", "most_items"),
    "uniqueItems": _read_unique,
    "required": _read_required,
    "propertyNames": _read_property_names,
}
_GROUPED = {
    ("properties", "patternProperties", "additionalProperties", "unevaluatedProperties"): _read_properties,
    ("prefixItems", "items", "unevaluatedItems"): _read_items,
}


def _number(schema: Mapping[str, Json], name: str, node: Node) -> int | float:
    value = schema[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SchemaError(f"`{name}` is not a number", node.place)
    return value


def _object_of(node: Node) -> Mapping[str, Json]:
    if not isinstance(node.schema, dict):
        raise SchemaError("a schema is an object, or true or false", node.place)
    return cast(Mapping[str, Json], node.schema)


def _parts(schema: Mapping[str, Json], name: str, node: Node) -> list[Node]:
    parts = schema.get(name, [])
    if not isinstance(parts, list) or (name in schema and not parts):
        raise SchemaError(f"`{name}` is not a list of schemas", node.place)
    listed = _child(node, name, parts)
    return [_child(listed, i, part) for i, part in enumerate(parts)]


def _named(schema: Mapping[str, Json], name: str, node: Node) -> dict[str, Node]:
    parts = schema.get(name, {})
    if not isinstance(parts, dict):
        raise SchemaError(f"`{name}` is not an object of schemas", node.place)
    listed = _child(node, name, parts)
    return {key: _child(listed, key, part) for key, part in parts.items()}


def _child(node: Node, key: str | int, schema: Json) -> Node:
    return Node(f"{node.place}/{str(key).replace('~', '~0').replace('/', '~1')}", schema)
