# SPDX-License-Identifier: MIT
"""Schemas that somebody might send, from the plainest to the nastiest; all of them can be kept."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_WORD: Schema = {"type": "string", "maxLength": 8}
_SMALL: Schema = {"type": "integer", "minimum": 0, "maximum": 9}


def _of(properties: Schema, *required: str, **more: object) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), **more}


_PLAIN: list[Schema] = [
    {"type": "boolean"},
    {"type": "null"},
    {"type": "integer"},
    {"type": "number"},
    _WORD,
    {"type": ["string", "null"], "maxLength": 5},
    {"type": ["integer", "boolean"]},
    {"type": "object", "properties": {}},
    {"type": "object", "properties": {}, "additionalProperties": False},
    {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    _of({"name": _WORD, "age": {"type": "integer"}}, "name", "age", additionalProperties=False),
    _of({"name": _WORD, "age": {"type": "integer"}}),
    {"title": "A thing", "description": "d", "default": {}, "examples": [1], "$comment": "c", "deprecated": True,
     "type": "boolean", "x-note": [1, {"a": 2}]},
]  # fmt: skip

_VALUES: list[Schema] = [
    {"enum": ["red", "green", "blue"]},
    {"enum": [1, 1.5, "1", None, True, [1, "a"], {"a": {"b": []}}]},
    {"const": "only this"},
    {"const": {"a": [1, 2, {"b": None}], "é": "\n\"\\"}},
    {"const": 0.1},
    {"type": "string", "enum": ["a", "ab", "abc", "abcd", "", "b\"c", "\\", "日本", "😀"]},
    {"type": "integer", "enum": [1, 2, "3", 4.0]},
    {"enum": [1, 5, 10, 50], "minimum": 4, "exclusiveMaximum": 50},
    {"enum": ["a", "bb", "ccc"], "minLength": 2, "pattern": "b|c"},
    {"anyOf": [{"enum": ["x", "y"]}, {"type": "null"}]},
    {"enum": [{"kind": "a", "n": 1}, {"kind": "b"}], "required": ["n"]},
    {"allOf": [{"enum": [1, 2, 3, 4]}, {"enum": [2, 4, 6]}]},
    {"type": "array", "items": {"enum": ["mon", "tue", "wed"]}, "uniqueItems": True, "minItems": 1},
    {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 2},
    {"enum": [f"value {i}" for i in range(300)]},
]  # fmt: skip

_NUMBERS: list[Schema] = [
    {"type": "integer", "minimum": 0, "maximum": 9},
    {"type": "integer", "minimum": -5, "maximum": 117},
    {"type": "integer", "minimum": 999, "maximum": 1001},
    {"type": "integer", "minimum": -123, "maximum": -7},
    {"type": "integer", "exclusiveMinimum": 41, "exclusiveMaximum": 43},
    {"type": "integer", "minimum": 1},
    {"type": "integer", "maximum": -1000},
    {"type": "integer", "minimum": 1.5, "maximum": 3.2},
    {"type": "integer", "minimum": 123456789, "maximum": 123456999},
    {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
    {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 1000},
    {"type": "integer", "multipleOf": 25},
    {"type": "number", "multipleOf": 1, "minimum": -3},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "minimum": -273.15},
    {"type": "number", "minimum": -0.5, "exclusiveMaximum": 0},
    {"type": "number", "maximum": 1e300, "exclusiveMinimum": -1e-7},
    {"type": "number", "minimum": 2.25, "maximum": 2.75},
    {"type": "number", "minimum": 99.99, "maximum": 100.01},
    {"type": "number", "exclusiveMinimum": 1000000.1, "maximum": 1000000.2},
    {"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer", "minimum": 3, "exclusiveMinimum": True,
     "maximum": 5},
    {"allOf": [{"type": "number"}, {"type": "integer", "minimum": 3}, {"maximum": 11, "multipleOf": 2}]},
]  # fmt: skip

_STRINGS: list[Schema] = [
    {"type": "string", "minLength": 3, "maxLength": 3},
    {"type": "string", "minLength": 20, "maxLength": 40},
    {"type": "string", "maxLength": 0},
    {"type": "string", "maxLength": 100000},
    {"type": "string", "pattern": "^[a-z]{2,5}$"},
    {"type": "string", "pattern": "^(\\([0-9]{3}\\))?[0-9]{3}-[0-9]{4}$"},
    {"type": "string", "pattern": "^[A-Z][a-z]+( [A-Z][a-z]+){0,2}$", "maxLength": 20},
    {"type": "string", "pattern": "[0-9]", "maxLength": 5},
    {"type": "string", "pattern": "\\S", "maxLength": 4},
    {"type": "string", "pattern": "^\\w+@\\w+\\.(com|org)$", "maxLength": 16},
    {"type": "string", "pattern": "^[^\\d\\s]{1,6}$"},
    {"type": "string", "pattern": "^[\"\\\\\\n]{1,4}$"},
    {"type": "string", "pattern": "^a|b$", "maxLength": 4},
    {"type": "string", "pattern": "^(?:ja|nein|ok?)$"},
    {"type": "string", "pattern": "^\\u00e9[\\x41-\\x43]\\t.$"},
    {"type": "string", "pattern": "^[\\W_]{2}$"},
    {"type": "string", "pattern": "^-?(0|[1-9]\\d*)(\\.\\d+)?$", "maxLength": 9},
    {"type": "string", "pattern": "^[a-z0-9-]+$", "minLength": 3, "maxLength": 63},
    {"type": "string", "pattern": "^\\S+@\\S+\\.\\S+$", "maxLength": 2000},
    {"type": "string", "pattern": "^\\S+@\\S+\\.\\S+$", "minLength": 6, "maxLength": 4000},
    {"type": "string", "allOf": [{"pattern": "a.*b"}, {"pattern": "^[abc]*$"}, {"maxLength": 7}]},
    *({"type": "string", "format": name} for name in (
        "date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "hostname", "json-pointer")),
    {"type": "string", "format": "uri", "minLength": 1, "maxLength": 2083},
    {"type": "string", "format": "password", "maxLength": 6},
    {"type": "string", "format": "date", "pattern": "^20"},
]  # fmt: skip

_ARRAYS: list[Schema] = [
    {"type": "array", "items": _SMALL, "minItems": 2, "maxItems": 2},
    {"type": "array", "items": _SMALL, "minItems": 3, "maxItems": 40},
    {"type": "array", "items": {"type": "array", "items": _SMALL, "maxItems": 2}, "maxItems": 3},
    {"type": "array", "items": False},
    {"type": "array", "maxItems": 0},
    {"type": "array", "prefixItems": [_SMALL, _WORD, {"type": "boolean"}], "items": False},
    {"type": "array", "prefixItems": [_SMALL, _WORD], "minItems": 1},
    {"type": "array", "prefixItems": [_SMALL, _WORD], "items": {"type": "null"}, "maxItems": 5},
    {"type": "array", "prefixItems": [_SMALL, _WORD, _SMALL], "minItems": 3, "maxItems": 3},
    {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [_SMALL, _WORD],
     "additionalItems": False},
    {"allOf": [{"type": "array", "items": {"type": "integer"}}, {"items": {"minimum": 5}}, {"maxItems": 4},
               {"items": {"maximum": 7}}]},
    {"type": "array", "items": _SMALL, "maxItems": 1000000000},
]  # fmt: skip

_OBJECTS: list[Schema] = [
    _of({"a": _SMALL, "b": _SMALL, "c": _SMALL}, "b"),
    _of({"a": _SMALL, "b": _SMALL, "c": _SMALL}, minProperties=1, maxProperties=2),
    _of({"a": _SMALL, "b": _SMALL, "c": _SMALL, "d": _SMALL}, "d", minProperties=3),
    _of({"a": _SMALL}, "a", additionalProperties={"type": "boolean"}, maxProperties=3),
    _of({"a": _SMALL}, "b", additionalProperties={"type": "boolean"}, maxProperties=2),
    {"type": "object", "additionalProperties": _SMALL, "maxProperties": 3},
    {"type": "object", "additionalProperties": _SMALL, "minProperties": 1, "maxProperties": 2},
    {"type": "object", "patternProperties": {"^x-[a-z]{1,3}$": _SMALL}, "additionalProperties": False,
     "maxProperties": 3},
    {"type": "object", "properties": {"x-a": {"const": 5}, "y": _WORD}, "required": ["x-a"],
     "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False, "maxProperties": 4},
    {"type": "object", "propertyNames": {"pattern": "^[a-z]{1,4}$"}, "additionalProperties": _SMALL,
     "maxProperties": 3},
    {"type": "object", "propertyNames": {"enum": ["left", "right"]}, "additionalProperties": _SMALL},
    {"type": "object", "propertyNames": {"maxLength": 3}, "additionalProperties": _SMALL, "maxProperties": 2},
    _of({"größe": _SMALL, "日本": _WORD, "a\"b\\c\n": _SMALL, "": _SMALL, "😀": {"type": "null"}, "$ref": _WORD},
        "größe", "日本", "a\"b\\c\n", "", "😀", "$ref"),
    _of({"a": _of({"b": _of({"c": _of({"d": _SMALL}, "d")}, "c")}, "b")}, "a"),
    _of({"never": False, "a": _SMALL}, "a"),
    _of({f"p{i}": {"type": "boolean"} for i in range(60)}, *(f"p{i}" for i in range(0, 60, 7))),
    {"type": "object", "properties": {"a": _SMALL}, "required": ["a"], "unevaluatedProperties": False,
     "allOf": [{"properties": {"b": _WORD}, "required": ["b"]}]},
    _of({"a": {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "null"}}, "b": True}, "a"),
    {"properties": {"a": {"minimum": 3, "maximum": 4, "type": "integer"}}, "required": ["a"]},
]  # fmt: skip

_CAT = _of({"kind": {"const": "cat"}, "lives": _SMALL}, "kind", "lives", additionalProperties=False)
_DOG = _of({"kind": {"const": "dog"}, "tricks": {"type": "array", "items": _WORD, "maxItems": 2}}, "kind", "tricks")

_CHOICES: list[Schema] = [
    {"anyOf": [_SMALL, _WORD, {"type": "null"}]},
    {"anyOf": [_CAT, _DOG]},
    {"oneOf": [_CAT, _DOG], "discriminator": {"propertyName": "kind"}},
    {"oneOf": [{"type": "integer"}, _WORD, {"type": "array", "items": _SMALL, "maxItems": 2}]},
    {"oneOf": [_of({"a": _SMALL}, "a"), _of({"b": _SMALL}, "b")]},
    {"oneOf": [{"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 4}]},
    {"oneOf": [{"enum": [1, 2]}, {"enum": ["a", "b"]}, {"const": None}]},
    {"type": "object", "properties": {"a": _SMALL, "b": _WORD}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    {"allOf": [_of({"a": _SMALL}, "a"), _of({"b": _WORD}, "b"), {"properties": {"a": {"minimum": 4}}}]},
    {"allOf": [{"anyOf": [_of({"a": _SMALL}, "a"), _of({"b": _SMALL}, "b")]},
               {"anyOf": [_of({"c": _WORD}, "c"), _of({"d": {"type": "null"}}, "d")]}]},
    {"anyOf": [{"type": "string", "pattern": "^a+$", "maxLength": 5}, {"type": "string", "enum": ["b", "bb"]}]},
    {"anyOf": [False, {"type": "boolean"}]},
    {"allOf": [True, {}, {"type": "boolean"}]},
]  # fmt: skip

_REFERENCES: list[Schema] = [
    {"$defs": {"s": _SMALL}, "type": "array", "items": {"$ref": "#/$defs/s"}, "maxItems": 3},
    {"definitions": {"a/b~c": _WORD}, "$ref": "#/definitions/a~1b~0c"},
    {"$defs": {"s": {"$anchor": "here", **_SMALL}}, "$ref": "#here"},
    {"$id": "https://example.com/s", "$defs": {"s": _SMALL}, "$ref": "https://example.com/s#/$defs/s"},
    {"$defs": {"s": {"type": "integer"}}, "$ref": "#/$defs/s", "minimum": 10, "maximum": 12},
    {"$defs": {"t": _of({"value": _SMALL, "left": {"anyOf": [{"$ref": "#/$defs/t"}, {"type": "null"}]}}, "value")},
     "$ref": "#/$defs/t"},
    _of({"name": _WORD, "children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}}, "name"),
    {"$defs": {"a": _of({"b": {"$ref": "#/$defs/b"}}), "b": _of({"a": {"$ref": "#/$defs/a"}, "n": _SMALL}, "n")},
     "$ref": "#/$defs/a"},
    {"$defs": {"json": {"anyOf": [{"type": "null"}, _SMALL, _WORD,
                                  {"type": "array", "items": {"$ref": "#/$defs/json"}, "maxItems": 2},
                                  {"type": "object", "additionalProperties": {"$ref": "#/$defs/json"},
                                   "maxProperties": 2}]}}, "$ref": "#/$defs/json"},
    {"$defs": {"x": {"$ref": "#/$defs/y"}, "y": {"$ref": "#/$defs/z"}, "z": _SMALL}, "$ref": "#/$defs/x"},
    {"type": "array", "items": [], "prefixItems": [_SMALL, {"$ref": "#/prefixItems/0"}]}
    | {"items": False},
    {"$defs": {"p": _of({"id": {"type": "string", "format": "uuid"}, "at": {"type": "string", "format": "date-time"}},
                        "id", "at")},
     "allOf": [{"$ref": "#/$defs/p"}, _of({"price": {"type": "number", "minimum": 0, "maximum": 99.99}}, "price")]},
]  # fmt: skip

BY_HAND: list[Schema] = [
    *_PLAIN, *_VALUES, *_NUMBERS, *_STRINGS, *_ARRAYS, *_OBJECTS, *_CHOICES, *_REFERENCES
]  # fmt: skip
