# SPDX-License-Identifier: MIT
"""Schemas as grammars: what is refused and where, what stays bounded; that the rest is kept is tested over a line."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from coordinator import SchemaError
from coordinator.json_schema import grammar_of
from native import SamplingParams, Vocabulary, check_params
from tests.coordinator.caravan_command import DEMO_MODEL
from tests.json_schemas.by_hand import BY_HAND, Schema
from tests.json_schemas.generated import generated

_LONG = {"type": "string", "pattern": "^(a|b)*a(a|b){200}$"}


def _in(schema: object) -> Schema:
    return {"type": "object", "properties": {"a/b": schema}}


@pytest.mark.parametrize(
    ("schema", "place", "sentence"),
    [
        ({"not": {"type": "null"}}, "#", "`not` cannot be kept"),
        (_in({"if": {}, "then": {}}), "#/properties/a~1b", "`if` cannot be kept by a grammar: use `anyOf`"),
        (_in({"contains": {"const": 1}}), "#/properties/a~1b", "`contains`"),
        ({"dependentRequired": {"a": ["b"]}}, "#", "`dependentRequired`"),
        (_in({"type": "array", "uniqueItems": True}), "#/properties/a~1b", "`uniqueItems`"),
        ({"type": "number", "multipleOf": 0.01}, "#", "`multipleOf` 0.01"),
        ({"$ref": "https://example.com/s.json"}, "#", "`$ref` 'https://example.com/s.json' names another document"),
        ({"items": {"$ref": "#/$defs/none"}}, "#/items", "names nothing that is there"),
        ({"$ref": "#"}, "#", "`$ref` leads back to itself without an end"),
        ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, "#", "without an end"),
        ({"$defs": {"a": _in({"$ref": "#/$defs/a"}) | {"required": ["a/b"]}}, "$ref": "#/$defs/a"}, "#",
         "no value that it describes comes to an end"),
        ({"type": "integer", "minimum": 4, "maximum": 3}, "#", "`minimum` 4 and `maximum` 3 leave no number"),
        ({"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 5}, "#", "excludes itself"),
        ({"type": "string", "minLength": 4, "maxLength": 3}, "#", "`minLength` 4 and `maxLength` 3 leave nothing"),
        ({"type": "string", "pattern": "^a$", "minLength": 2}, "#", "excludes itself"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "#", "`type` allows nothing"),
        ({"enum": [1, 2], "type": "string"}, "#", "excludes itself"),
        ({"const": 1, "enum": [2]}, "#", "`enum` and `const` leave no value"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "#", "the property 'a' is `required`"),
        ({"type": "object", "minProperties": 3}, "#", "`minProperties`"),
        ({"type": "array", "items": False, "minItems": 1}, "#", "excludes itself"),
        (False, "#", "the schema is `false`"),
        ({"type": "string", "pattern": "(?=a)b"}, "#/pattern", "groups that begin with `(?`"),
        ({"type": "string", "pattern": "a\\b"}, "#/pattern", "`\\b` cannot be kept"),
        ({"type": "string", "pattern": "(a)\\1"}, "#/pattern", "`\\1` cannot be kept"),
        ({"type": "string", "pattern": "a^b"}, "#/pattern", "at the pattern's ends only"),
        ({"type": "string", "pattern": "(a"}, "#/pattern", "a group is open"),
        ({"type": "string", "pattern": "a)"}, "#/pattern", "nothing opens"),
        ({"type": "string", "pattern": "[z-a]"}, "#/pattern", "a range"),
        ({"type": "string", "pattern": "a{3,2}"}, "#/pattern", "at least 3 and at most 2 times"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#/oneOf", "schemas 0 and 1 of `oneOf` may both hold"),
        ({"oneOf": [_in({"const": 1}), _in({"const": 2})]}, "#/oneOf", "by a required property with `const`"),
        ({"type": "text"}, "#", "`type` text is none of JSON's types"),
        ({"type": "string", "maxLength": -1}, "#", "`maxLength` -1 is no count"),
        ({"type": "number", "minimum": "3"}, "#", "`minimum` is not a number"),
        ({"properties": []}, "#", "`properties` is not an object of schemas"),
        ({"anyOf": []}, "#", "`anyOf` is not a list of schemas"),
        ({"items": 3}, "#/items", "a schema is an object, or true or false"),
        ({"required": "a"}, "#", "`required` is not a list of names"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_with_its_place(schema: Schema, place: str, sentence: str) -> None:
    with pytest.raises(SchemaError) as caught:
        grammar_of(schema)
    assert caught.value.place == place
    assert sentence in caught.value.message
    assert f"at {place}: " in caught.value.message


def _deep(n: int) -> Schema:
    schema: Schema = {"type": "null"}
    for _ in range(n):
        schema = {"type": "array", "items": schema, "maxItems": 2}
    return schema


def _many(n: int) -> Schema:
    return {"allOf": [{"anyOf": [{"required": [f"{i}-{j}"]} for j in range(4)]} for i in range(n)]}


@pytest.mark.parametrize(
    "schema",
    [
        _many(8),
        _LONG,
        {"type": "string", "pattern": "^(((a{99}){99}){99}){99}$"},
        {"type": "string", "pattern": "(" * 500 + ")" * 500},
        {"type": "array", "items": {"type": "null"}, "minItems": 1_000_000_000},
        {"enum": [f"{i:x}" * 20 for i in range(9000)]},
        {"properties": {f"p{i}": {"type": "string", "pattern": f"^a{{{i}}}b*c.*d$"} for i in range(400)}},
        {"allOf": [{"enum": list(range(4000))} for _ in range(4)]},
        {"allOf": [{"patternProperties": {f"{i}.*{j}.*x": {} for j in range(9)}} for i in range(9)]},
        _in({"anyOf": [_deep(3)] * 300}),
        {"$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)} | {"d40": {}},
         "$ref": "#/$defs/d0"},
    ],
)  # fmt: skip
def test_a_schema_made_to_take_long_is_refused_soon(schema: Schema) -> None:
    start = time.process_time()
    with pytest.raises(SchemaError):
        grammar_of(schema)
    assert time.process_time() - start < 8


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    with Vocabulary.load(DEMO_MODEL) as vocabulary:
        yield vocabulary


def test_counts_of_any_size_are_a_small_grammar_that_llama_cpp_reads(vocabulary: Vocabulary) -> None:
    for schema in ({"type": "array", "maxItems": 10**9}, {"type": "string", "minLength": 3000, "maxLength": 5000}):
        grammar = grammar_of(schema)
        assert len(grammar) < 5000
        check_params(vocabulary, SamplingParams(grammar=grammar))


def test_llama_cpp_reads_all_grammars(vocabulary: Vocabulary) -> None:
    for schema in [*BY_HAND, _deep(60), *(generated(seed) for seed in range(40))]:
        check_params(vocabulary, SamplingParams(grammar=grammar_of(schema)))


def test_notes_change_nothing() -> None:
    notes = {"title": "T", "description": "d", "default": 3, "examples": [1], "x-y": {}, "nullable": True}
    assert grammar_of({"type": "integer", **notes}) == grammar_of({"type": "integer"})
