# SPDX-License-Identifier: MIT
"""One conversion: from the shapes of a schema to the rules of a grammar, a rule for each set of conditions.

What a grammar writes is always valid; not all that is valid is written. Narrower than the schema: properties come in
the schema's order, and none that it does not name unless it says `additionalProperties` or `patternProperties`; a value
without `type` is of the types that its keywords speak of; tuples are whole unless `minItems` says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from coordinator.errors import SchemaError
from coordinator.json_schema.automaton import (
    Length,
    Machine,
    Matching,
    Multiple,
    TooComplexError,
    rules_of,
    too_complex,
)
from coordinator.json_schema.checking import Checker, conditions, is_free, nodes_of_item
from coordinator.json_schema.containers import Containers, Counts, Member
from coordinator.json_schema.expression import Expression, Reference, Text, choice, sequence
from coordinator.json_schema.grammar import ROOT, Grammar
from coordinator.json_schema.literals import literal, literals
from coordinator.json_schema.numbers import INTEGER, NUMBER, decimals, integer_ends, integers
from coordinator.json_schema.patterns import Patterns
from coordinator.json_schema.reading import Reader
from coordinator.json_schema.shape import Json, Node, Pattern, Shape
from coordinator.json_schema.strings import Strings
from coordinator.json_schema.work import Work

_BOOLEANS = (True, False)
_DIGITS_OF_MULTIPLES = 9
"""Of multiples without a bound: each needs as many states as the factor has remainders."""
_NEVER = 1 << 62
"""An index that no array reaches."""


class Conversion:
    """Used once.

    Args:
        document: the schema.
        root: name of the grammar's first rule.
    """

    def __init__(self, document: Json, root: str = ROOT) -> None:
        self._work = Work()
        self._reader = Reader(document, self._work)
        self._patterns = Patterns(self._work)
        self._checker = Checker(self._reader, self._patterns)
        self._grammar = Grammar(self._work, root)
        self._strings = Strings(self._grammar, self._patterns)
        self._containers = Containers(self._grammar)
        self._rules: dict[tuple[Node, ...], Reference] = {}
        self._waiting: list[tuple[Node, ...]] = []

    @property
    def n_steps(self) -> int:
        """The work that it took."""
        return self._work.spent

    def text(self) -> str:
        """The grammar.

        Raises:
            SchemaError: the schema is none, nothing satisfies it, or no grammar can keep it.
        """
        root = self._value(conditions([self._reader.root]))
        # Not by recursion: schemas nest as deep as their sender likes.
        while self._waiting:
            nodes = self._waiting.pop()
            self._grammar.define(self._rules[nodes], self._one_of(nodes))
        return self._grammar.text(root)

    def _value(self, nodes: tuple[Node, ...]) -> Reference:
        """The rule for values that satisfy all these schemas; it is written later."""
        if nodes not in self._rules:
            self._rules[nodes] = self._grammar.reserve("v", nodes[0].place if nodes else "#")
            self._waiting.append(nodes)
        return self._rules[nodes]

    def _one_of(self, nodes: tuple[Node, ...]) -> Expression:
        shapes = self._reader.shapes(nodes)
        self._check_choices(shapes)
        options = [option for shape in shapes for option in self._of_shape(shape)]
        if not options:
            place = nodes[0].place if nodes else "#"
            raise SchemaError("nothing can be valid here: what is said of this value excludes itself", place)
        return choice(options)

    def _check_choices(self, shapes: list[Shape]) -> None:
        """Refuses a `oneOf` of which two branches may hold for one value: just one must."""
        for shape in shapes:
            for other in shapes:
                branches = dict(other.choices)
                for place, branch in shape.choices:
                    clash = branches.get(place, branch)
                    if clash != branch and not self._checker.apart(shape, other):
                        raise SchemaError(
                            f"schemas {min(branch, clash)} and {max(branch, clash)} of `oneOf` may both hold for one "
                            "value: use `anyOf`, or tell them apart by a required property with `const`",
                            place,
                        )

    def _of_shape(self, shape: Shape) -> Iterator[Expression]:
        if shape.values is not None:
            values = self._checker.listed(shape)
            if values:
                yield literals(values)
            return
        makers: dict[str, Callable[[Shape], Expression | None]] = {
            "object": self._object,
            "array": self._array,
            "string": self._strings.string,
            "number": self._number,
            "integer": self._integer,
            "boolean": lambda _: literals(_BOOLEANS),
            "null": lambda _: literal(None),
        }
        types = shape.told_types
        for name, make in makers.items():
            made = make(shape) if name in types else None
            if made is not None:
                yield made

    def _number(self, shape: Shape) -> Expression | None:
        if shape.factor is not None:
            return self._integer(shape)
        if shape.low is None and shape.high is None:
            return self._grammar.rule("number", NUMBER, "#")
        return decimals(shape.low, shape.high)

    def _integer(self, shape: Shape) -> Expression | None:
        if shape.low is None and shape.high is None and shape.factor in (None, 1):
            return self._grammar.rule("integer", INTEGER, "#")
        if shape.factor in (None, 1):
            return integers(*integer_ends(shape.low, shape.high))
        digits = integers(*integer_ends(shape.low, shape.high, _DIGITS_OF_MULTIPLES))
        if digits is None:
            return None
        try:
            return rules_of([Matching(digits, self._work), Multiple(shape.factor or 1)], self._grammar, shape.place)
        except TooComplexError:
            raise too_complex("`multipleOf`", shape.place) from None

    def _array(self, shape: Shape) -> Expression | None:
        counts, closed = self._item_counts(shape)
        if shape.is_unique and (counts.most is None or counts.most > 1):
            return self._unique_array(shape, counts)
        n_first = max((len(group.first) for group in shape.items), default=0)
        first: list[Expression] = [self._value(nodes_of_item(shape.items, i)) for i in range(min(n_first, closed))]
        rest = None
        if closed > n_first and (not n_first or any(group.rest is not None for group in shape.items)):
            rest = self._value(nodes_of_item(shape.items, n_first))
        return self._containers.in_order(first, rest, counts, shape.place)

    def _item_counts(self, shape: Shape) -> tuple[Counts, int]:
        """How many items, and at which index there can be none any more."""
        n_first = max((len(group.first) for group in shape.items), default=0)
        closed = _NEVER
        for i in reversed(range(n_first + 1)):
            if any(node.schema is False for node in nodes_of_item(shape.items, i)):
                closed = i
        most = shape.most_items
        if closed < _NEVER or (n_first and all(group.rest is None for group in shape.items)):
            most = min(n_first if most is None else min(most, n_first), closed)
        least = shape.least_items or min(n_first, closed, n_first if most is None else most)
        return Counts(least, most), closed

    def _unique_array(self, shape: Shape, counts: Counts) -> Expression | None:
        """Each item once: of few possible ones, in the order of the schema."""
        nodes = nodes_of_item(shape.items, 0)
        values: list[Json] = []
        is_listed = bool(nodes) and not any(group.first for group in shape.items)
        for one in self._reader.shapes(nodes) if is_listed else []:
            listed = (
                one.values if one.values is not None else _BOOLEANS if one.types == frozenset({"boolean"}) else None
            )
            if listed is None:
                is_listed = False
                break
            values += self._checker.listed(replace(one, values=tuple(listed)))
        if not is_listed:
            raise SchemaError("`uniqueItems` can be kept only of items with an `enum`: leave it out", shape.place)
        members = [Member(Text(text), False) for text in sorted({literal(value).text for value in values})]
        return self._containers.some_of("[]", members, None, counts, shape.place)

    def _object(self, shape: Shape) -> Expression | None:
        names = dict.fromkeys(name for group in shape.properties for name in group.named)
        names |= dict.fromkeys([*shape.required, *self._listed_names(shape)])
        members: list[Member] = []
        for name in names:
            nodes = self._checker.nodes_of_property(shape.properties, name)
            is_allowed = all(node.schema is not False for node in nodes)
            if is_allowed and self._checker.satisfies(shape.property_names, name):
                members.append(Member(self._pair(literal(name), nodes), name in shape.required))
            elif name in shape.required:
                raise SchemaError(f"the property {name[:100]!r} is `required`, and nothing allows it", shape.place)
        free = list(self._free_properties(shape, list(names)))
        rest = self._grammar.compact(choice(free), "p", shape.place) if free else None
        counts = Counts(shape.least_properties, shape.most_properties)
        made = self._containers.some_of("{}", members, rest, counts, shape.place)
        if made is None:
            message = "`minProperties` and `maxProperties` cannot be kept here: say which properties are `required`"
            raise SchemaError(message, shape.place)
        return made

    def _listed_names(self, shape: Shape) -> list[str]:
        """Names that `propertyNames` lists."""
        if not shape.property_names:
            return []
        shapes = self._reader.shapes(shape.property_names)
        may_be = is_free(shape.properties) or any(group.matching for group in shape.properties)
        return [v for one in shapes for v in one.values or () if isinstance(v, str)] if may_be else []

    def _free_properties(self, shape: Shape, names: list[str]) -> Iterator[Expression]:
        """Properties by any other name: those of each pattern, and those of none."""
        patterns = [pattern for group in shape.properties for pattern, _ in group.matching]
        regions: list[Pattern | None] = [*dict.fromkeys(patterns), *([None] if is_free(shape.properties) else [])]
        for region in regions:
            nodes = self._nodes_of_region(shape, region)
            if any(node.schema is False for node in nodes):
                continue
            others = [pattern for pattern in dict.fromkeys(patterns) if pattern != region]
            machines: list[Machine] = [self._patterns.machine(pattern, negated=True) for pattern in others]
            if region is not None:
                machines.append(self._patterns.machine(region))
            for key in self._keys(shape, names, machines):
                yield self._pair(key, nodes)

    def _nodes_of_region(self, shape: Shape, region: Pattern | None) -> tuple[Node, ...]:
        """What is said of properties whose names match this pattern and no other."""
        found: list[Node] = []
        for group in shape.properties:
            own = [node for pattern, node in group.matching if pattern == region]
            found += own or ([] if group.rest is None else [group.rest])
        return conditions(found)

    def _keys(self, shape: Shape, names: list[str], machines: list[Machine]) -> Iterator[Expression]:
        """Names of properties that are not in `names` and satisfy all machines, and what `propertyNames` says."""
        if names:
            machines = [*machines, Matching(choice(Text(name) for name in names), self._work, negated=True)]
        wanted = self._reader.shapes(shape.property_names) if shape.property_names else [Shape(shape.place)]
        for one in wanted:
            if one.values is not None or "string" not in (one.types or {"string"}):
                continue
            if not machines:
                key = self._strings.string(one)
            else:
                length = Length(one.least_length, one.most_length)
                also = [self._patterns.machine(pattern) for pattern in one.patterns]
                key = self._strings.text([*machines, *also, length], one.place, "the names of properties")
            if key is not None:
                yield key

    def _pair(self, key: Expression, nodes: tuple[Node, ...]) -> Expression:
        return sequence(key, Text(":"), self._containers.space(), self._value(nodes))
