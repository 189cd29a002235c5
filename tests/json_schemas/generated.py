# SPDX-License-Identifier: MIT
"""Random schemas, the same for the same seed; all of them can be satisfied."""

from __future__ import annotations

import random
from typing import Any

from tests.json_schemas.by_hand import Schema

_NAMES = [
    "a",
    "b",
    "id",
    "name",
    "größe",
    "日本",
    'quo"te',
    "back\\slash",
    "new\nline",
    "",
    "a.b",
    "x-1",
    "😀",
    "$defs",
]
_PATTERNS = [
    "^[a-z]{1,4}$",
    "^[A-Z]\\d{2}$",
    "x",
    "^(ab|c)+$",
    "^\\w{0,3}-\\w{1,3}$",
    "^[^a-z]{2}$",
    "\\d$",
    "^é?.{1,3}$",
]
_FORMATS = ["date", "time", "date-time", "uuid", "ipv4"]


def generated(seed: int) -> Schema:
    """A schema of about half a dozen levels at most, deeper for larger seeds."""
    generator = _Generator(random.Random(seed), n_levels=2 + seed % 4)
    root = generator.schema(0)
    return {**root, "$defs": generator.definitions} if generator.definitions else root


class _Generator:
    def __init__(self, chance: random.Random, n_levels: int) -> None:
        self._chance = chance
        self._n_levels = n_levels
        self.definitions: dict[str, Schema] = {}

    def schema(self, level: int) -> Schema:
        makers = [self._integer, self._number, self._string, self._patterned, self._values, self._format]
        if level < self._n_levels:
            makers = [self._object, self._object, self._array, self._tuple, self._any, self._all, self._named, *makers]
            if level == 0:
                makers = makers[:7]
        made = self._chance.choice(makers)(level)
        if self._chance.random() < 0.15:
            made = {"description": "x", **made}
        return made

    def _integer(self, level: int) -> Schema:
        low = self._chance.randint(-2000, 2000)
        made: Schema = {"type": "integer", "minimum": low, "maximum": low + self._chance.choice([0, 1, 9, 137, 50000])}
        if made["maximum"] - low > 100 and self._chance.random() < 0.3:
            made["multipleOf"] = self._chance.choice([2, 3, 10, 12])
        return made

    def _number(self, level: int) -> Schema:
        low = round(self._chance.uniform(-100, 100), self._chance.randint(0, 3))
        keys = self._chance.choice([("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")])
        return {"type": "number", keys[0]: low, keys[1]: round(low + self._chance.choice([0.5, 3, 1000]), 3)}

    def _string(self, level: int) -> Schema:
        least = self._chance.choice([0, 0, 1, 5, 18])
        return {"type": "string", "minLength": least, "maxLength": least + self._chance.choice([0, 1, 6, 30])}

    def _patterned(self, level: int) -> Schema:
        return {"type": "string", "pattern": self._chance.choice(_PATTERNS), "maxLength": self._chance.randint(4, 9)}

    def _format(self, level: int) -> Schema:
        return {"type": "string", "format": self._chance.choice(_FORMATS)}

    def _values(self, level: int) -> Schema:
        values: list[Any] = [1, -2.5, "a", 'q"', "é\n", None, False, [], {}, [1, {"a": None}], "long " * 4]
        return {"enum": self._chance.sample(values, self._chance.randint(1, 6))}

    def _object(self, level: int) -> Schema:
        names = self._chance.sample(_NAMES, self._chance.randint(1, 5))
        made: Schema = {"type": "object", "properties": {name: self.schema(level + 1) for name in names}}
        made["required"] = self._chance.sample(names, self._chance.randint(0, len(names)))
        kind = self._chance.random()
        if kind < 0.3:
            made["additionalProperties"] = False
        elif kind < 0.45:
            made["additionalProperties"] = self._integer(level)
            made["maxProperties"] = len(names) + 1
        elif kind < 0.6:
            made["minProperties"] = len(names) - 1
        return made

    def _array(self, level: int) -> Schema:
        least = self._chance.choice([0, 0, 1, 2])
        counts = {"minItems": least, "maxItems": least + self._chance.choice([0, 1, 3])}
        return {"type": "array", "items": self.schema(level + 1), **counts}

    def _tuple(self, level: int) -> Schema:
        first = [self.schema(level + 1) for _ in range(self._chance.randint(1, 3))]
        return {"type": "array", "prefixItems": first, "items": self._chance.choice([False, self._integer(level)]),
                "minItems": self._chance.randint(0, len(first)), "maxItems": len(first) + 1}  # fmt: skip

    def _any(self, level: int) -> Schema:
        return {"anyOf": [self.schema(level + 1) for _ in range(self._chance.randint(1, 4))]}

    def _all(self, level: int) -> Schema:
        names = self._chance.sample(_NAMES, 4)
        parts: list[Schema] = [
            {"type": "object", "properties": {name: self.schema(level + 1)}, "required": [name]} for name in names[:2]
        ]
        parts.append({"anyOf": [{"required": [names[0]]}, {"properties": {names[2]: self.schema(level + 1)}}]})
        return {"allOf": parts}

    def _named(self, level: int) -> Schema:
        """A definition; half of them contain themselves."""
        name = f"d{len(self.definitions)}"
        self.definitions[name] = {}
        made = self._object(level)
        if self._chance.random() < 0.5:
            made["properties"]["again"] = {"anyOf": [{"type": "null"}, {"$ref": f"#/$defs/{name}"}]}
            made.pop("maxProperties", None)
        self.definitions[name] = made
        return {"$ref": f"#/$defs/{name}"}
