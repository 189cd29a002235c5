# SPDX-License-Identifier: MIT
"""Mistral's two forms behind `[TOOL_CALLS]`: a JSON array (7B v0.3, Nemo, Small 2409), and `NAME[ARGS]{...}` for each
call (Small 3.2, Devstral, Magistral, Ministral 3). Ids of calls are nine letters and digits: templates refuse others.
"""

from __future__ import annotations

from coordinator.chat_output.formats.base import (
    JsonCall,
    Reading,
    Setting,
    TaggedFormat,
    arguments_rules,
)
from coordinator.chat_output.gbnf import BLANK, Rules, quoted
from coordinator.chat_output.reader import MalformedError, Reader, Steps

_ARGUMENTS = "[ARGS]"
_ID = "[CALL_ID]"
_NINE = "[a-zA-Z0-9]{9}"
# The model's id comes when the client has been told one.
_CALL = JsonCall(behind="id", string=_NINE)


class MistralArray(TaggedFormat):
    """`[TOOL_CALLS][{"name": ..., "arguments": {...}, "id": "..."}]`."""

    name = "mistral-array"
    opener = "[TOOL_CALLS]"
    special = (opener,)
    id_prefix, id_length = "", 9

    def is_of(self, template: str) -> bool:
        return self.opener in template and _ARGUMENTS not in template

    def calls(self, setting: Setting, rules: Rules) -> dict[str, str]:
        call = _CALL.rule(setting, rules)
        more = f'({BLANK} "," {BLANK} {call})* ' if setting.wish.parallel else ""
        return {self.opener: rules.add("calls", f'{BLANK} "[" {BLANK} {call} {more}{BLANK} "]" {BLANK}')}

    def read_call(self, reader: Reader, reading: Reading, word: str) -> Steps[None]:
        del reading, word
        yield from reader.expect("[")
        yield from _CALL.read(reader)
        while not (yield from reader.are_next("]")):
            yield from reader.expect(",")
            yield from _CALL.read(reader)


class MistralNamed(TaggedFormat):
    """`[TOOL_CALLS]NAME[ARGS]{...}`, with `[CALL_ID]...` in between in some models."""

    name = "mistral-named"
    opener = "[TOOL_CALLS]"
    special = (opener, _ARGUMENTS, _ID)
    id_prefix, id_length = "", 9

    def is_of(self, template: str) -> bool:
        return self.opener in template and _ARGUMENTS in template

    def calls(self, setting: Setting, rules: Rules) -> dict[str, str]:
        arguments = arguments_rules(setting, rules)
        behind_name = rules.add("behind-name", f"({quoted(_ID)} {_NINE})? {quoted(_ARGUMENTS)} {BLANK}")
        options = [f"{quoted(name)} {behind_name} {rule}" for name, rule in arguments.items()]
        call = rules.add("call", " | ".join(options))
        more = f"({BLANK} {quoted(self.opener)} {call})* " if setting.wish.parallel else ""
        return {self.opener: rules.add("calls", f"{call} {more}{BLANK}")}

    def read_call(self, reader: Reader, reading: Reading, word: str) -> Steps[None]:
        del reading, word
        name, word = yield from reader.before(_ID, _ARGUMENTS)
        if word == _ID:
            yield from reader.before(_ARGUMENTS)
        if not name.strip():
            raise MalformedError
        reader.begin_call(name.strip())
        yield from reader.json_object(reader.arguments)
