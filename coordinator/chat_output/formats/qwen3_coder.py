# SPDX-License-Identifier: MIT
"""Qwen3-Coder and Qwen 3.5: calls as XML, `<function=NAME>` with a `<parameter=KEY>` for each argument.

Strings stand there without quotes, so of their schemas only `enum` and `const` can be held; everything else is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from coordinator.chat_output.formats.base import Reading, Setting, TaggedFormat
from coordinator.chat_output.gbnf import BLANK, Rules, quoted
from coordinator.chat_output.reader import CutError, Reader, Steps
from coordinator.chat_output.tools import Tool
from coordinator.errors import SchemaError

_FUNCTION, _FUNCTION_END = "<function=", "</function>"
# No line end can stand within a JSON value's strings.
_PARAMETER, _PARAMETER_END = "<parameter=", "\n</parameter>"
_OPENER, _CLOSER = "<tool_call>", "</tool_call>"
_BREAKER = f"{_OPENER}\n{_FUNCTION}"
_NOT_HELD = ("pattern", "format", "minLength", "maxLength")
_SHARED = ("$defs", "definitions")
_OR_NULL = {"string", "null"}

Json = Mapping[str, Any] | bool


class Qwen3Coder(TaggedFormat):
    """XML between tags, once for each call."""

    name = "qwen3-coder"
    opener = _OPENER
    also = (_FUNCTION,)
    breakers = (_BREAKER,)
    special = (opener, _CLOSER)

    def is_of(self, template: str) -> bool:
        return self.opener in template and _FUNCTION in template and _PARAMETER in template

    def calls(self, setting: Setting, rules: Rules) -> dict[str, str]:
        rules.until("raw", {_PARAMETER_END: BLANK}, may_end=False)
        options = [self._function(tool, f"f{number}", rules) for number, tool in enumerate(setting.wish.callables)]
        function = rules.add("function", " | ".join(options))
        named = f"{function} {quoted(_FUNCTION_END)} {BLANK} {quoted(_CLOSER)}"
        call = f"{BLANK} {quoted(_FUNCTION)} {named}"
        more = f"({BLANK} {quoted(self.opener)} {call})* " if setting.wish.parallel else ""
        calls, bare = rules.add("calls", f"{call} {more}{BLANK}"), rules.add("bare", f"{named} {more}{BLANK}")
        return {self.opener: calls, _FUNCTION: bare, _BREAKER: bare}

    def raw(self, tools: tuple[Tool, ...]) -> dict[str, dict[str, bool]]:
        return {
            tool.name: {
                key: _is_nullable(schema) for key, schema in _properties(tool).items() if _string_in(schema) is not None
            }
            for tool in tools
        }

    def read_call(self, reader: Reader, reading: Reading, word: str) -> Steps[None]:
        if word == self.opener:
            yield from reader.expect(_FUNCTION)
        name, _ = yield from reader.before(">")
        raw = reading.raw.get(name, {})
        reader.begin_call(name)
        reader.arguments("{")
        separator = ""
        while (yield from reader.are_next(_PARAMETER)):
            key, _ = yield from reader.before(">")
            yield from reader.word("\n")
            reader.arguments(f"{separator}{json.dumps(key)}: ")
            separator = ", "
            if not (raw.get(key) and (yield from reader.word(f"null{_PARAMETER_END}"))):
                yield from self._read_value(reader, is_raw=key in raw)
            else:
                reader.arguments("null")
        yield from reader.expect(_FUNCTION_END)
        reader.arguments("}")
        yield from reader.expect(_CLOSER)

    def _read_value(self, reader: Reader, *, is_raw: bool) -> Steps[None]:
        def tell_escaped(text: str) -> None:
            reader.arguments(json.dumps(text, ensure_ascii=False)[1:-1])

        quote, tell = ('"', tell_escaped) if is_raw else ("", reader.arguments)
        reader.arguments(quote)
        if (yield from reader.until((_PARAMETER_END,), tell)) is None:
            raise CutError
        reader.arguments(quote)

    def _function(self, tool: Tool, name: str, rules: Rules) -> str:
        """The name of the tool, and its arguments in the schema's order."""
        rules.check(tool.parameters, tool.place)
        required = tool.parameters.get("required", ())
        parts = [quoted(f"{tool.name}>"), BLANK]
        for number, (key, schema) in enumerate(_properties(tool).items()):
            value = self._value(tool, key, schema, f"{name}-{number}", rules)
            whole = rules.add(f"{name}-parameter-{number}", f"{quoted(f'{_PARAMETER}{key}>' + chr(10))} {value}")
            parts.append(whole if key in required else f"{whole}?")
        return " ".join(parts)

    def _value(self, tool: Tool, key: str, schema: Json, name: str, rules: Rules) -> str:
        place = f"{tool.place}#/properties/{key}"
        if ">" in key or "\n" in key:
            raise SchemaError("this model cannot write the name of this parameter: choose another one", place)
        string = _string_in(schema)
        if string is None:
            shared = {name: tool.parameters[name] for name in _SHARED if name in tool.parameters}
            whole = {**shared, **schema} if isinstance(schema, Mapping) else schema
            return f"{rules.schema(name, whole, place)} {quoted(_PARAMETER_END)} {BLANK}"
        values = [string["const"]] if "const" in string else string.get("enum")
        if values is not None:
            told = [value for value in values if isinstance(value, str)] + ["null"] * _is_nullable(schema)
            return f"({' | '.join(map(quoted, told))}) {quoted(_PARAMETER_END)} {BLANK}"
        not_held = next((keyword for keyword in _NOT_HELD if keyword in string), None)
        if tool.strict and not_held is not None:
            problem = f"this model writes strings without quotes, where `{not_held}` cannot be kept: leave it out"
            raise SchemaError(f"{problem}, or `strict`", place)
        return "raw"


def _properties(tool: Tool) -> Mapping[str, Json]:
    properties = tool.parameters.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _string_in(schema: Json) -> Mapping[str, Any] | None:
    """The schema of a string, if that is all that it describes, or null beside it."""
    if not isinstance(schema, Mapping):
        return None
    kind = schema.get("type")
    if kind in ("string", ["string"]) or (isinstance(kind, list) and _is_nullable(schema)):
        return schema
    branches = _branches(schema)
    if branches is not None and _is_nullable(schema):
        return next(branch for branch in branches if branch.get("type") == "string")
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    is_listed = isinstance(values, list) and bool(values) and all(isinstance(value, str) for value in values)
    return schema if kind is None and is_listed else None


def _is_nullable(schema: Json) -> bool:
    """Whether it is a string or null, in one of the two ways to say so."""
    if not isinstance(schema, Mapping):
        return False
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return set(map(str, kinds)) == _OR_NULL
    branches = _branches(schema) or []
    return len(branches) == len(_OR_NULL) and {_kind(branch) for branch in branches} == _OR_NULL


def _branches(schema: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    branches = schema.get("anyOf", schema.get("oneOf"))
    is_list = isinstance(branches, list) and all(isinstance(branch, Mapping) for branch in branches)
    return branches if is_list else None


def _kind(schema: Mapping[str, Any]) -> str | None:
    kind = schema.get("type")
    return kind if isinstance(kind, str) else None
