# SPDX-License-Identifier: MIT
"""Hermes 2 and 3, Qwen 2.5, Qwen 3, QwQ and others: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""

from __future__ import annotations

from coordinator.chat_output.formats.base import JsonCall, Reading, Setting, TaggedFormat
from coordinator.chat_output.gbnf import BLANK, Rules, quoted
from coordinator.chat_output.reader import Reader, Steps

CLOSER = "</tool_call>"
_CALL = JsonCall()


class Hermes(TaggedFormat):
    """JSON between tags, once for each call."""

    name = "hermes"
    opener = "<tool_call>"
    special = (opener, CLOSER)
    example = f'{opener}\n{{"name": NAME, "arguments": ARGUMENTS}}\n{CLOSER}'

    def is_of(self, template: str) -> bool:
        return self.opener in template and "<function=" not in template and "<arg_key>" not in template

    def calls(self, setting: Setting, rules: Rules) -> dict[str, str]:
        call = f"{BLANK} {_CALL.rule(setting, rules)} {BLANK} {quoted(CLOSER)}"
        more = f"({BLANK} {quoted(self.opener)} {call})* " if setting.wish.parallel else ""
        return {self.opener: rules.add("calls", f"{call} {more}{BLANK}")}

    def read_call(self, reader: Reader, reading: Reading, word: str) -> Steps[None]:
        del reading, word
        yield from _CALL.read(reader)
        yield from reader.expect(CLOSER)
