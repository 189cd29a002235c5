# SPDX-License-Identifier: MIT
"""Cohere's Command R7B: thoughts, text and calls, each between special tokens of its own; calls are a JSON array."""

from __future__ import annotations

from coordinator.chat_output.formats.base import (
    ChatFormat,
    JsonCall,
    Reading,
    Setting,
    after_thoughts,
    read_thoughts,
)
from coordinator.chat_output.gbnf import BLANK, Rules, quoted
from coordinator.chat_output.reader import Reader, Steps

_TEXT, _TEXT_END = "<|START_RESPONSE|>", "<|END_RESPONSE|>"
_CALLS, _CALLS_END = "<|START_ACTION|>", "<|END_ACTION|>"
_CALL = JsonCall("tool_name", "parameters", before="tool_call_id", string="[0-9]{1,4}")


class CommandR7B(ChatFormat):
    """Every part between tags."""

    name = "command-r7b"
    special = (_TEXT, _TEXT_END, _CALLS, _CALLS_END)
    is_always_marked = True

    def is_of(self, template: str) -> bool:
        return _CALLS in template and _TEXT in template

    def grammar(self, setting: Setting, rules: Rules) -> str:
        wish, options = setting.wish, []
        if wish.callables:
            call = _CALL.rule(setting, rules)
            more = f'({BLANK} "," {BLANK} {call})* ' if wish.parallel else ""
            options.append(
                f'{BLANK} {quoted(_CALLS)} {BLANK} "[" {BLANK} {call} {more}{BLANK} "]" {BLANK} {quoted(_CALLS_END)}'
            )
        if wish.schema is not None and not wish.must_call:
            answer = rules.schema("answer", wish.schema, "")
            options.append(f"{BLANK} {quoted(_TEXT)} {BLANK} {answer} {BLANK} {quoted(_TEXT_END)}")
        elif not wish.must_call:
            text = rules.until("text", {_TEXT_END: BLANK, _CALLS: None})
            options.append(f"{BLANK} {quoted(_TEXT)} {text}")
        return after_thoughts(setting, rules, " | ".join(options))

    def read(self, reader: Reader, reading: Reading) -> Steps[None]:
        yield from read_thoughts(reader, reading)
        words = (_TEXT, _TEXT_END, _CALLS) if reading.reads_calls else (_TEXT, _TEXT_END)
        while (word := (yield from reader.until(words, reader.content))) is not None:
            if word == _CALLS:
                yield from self._read_calls(reader)

    def _read_calls(self, reader: Reader) -> Steps[None]:
        yield from reader.expect("[")
        yield from _CALL.read(reader)
        while not (yield from reader.are_next("]")):
            yield from reader.expect(",")
            yield from _CALL.read(reader)
        yield from reader.expect(_CALLS_END)
