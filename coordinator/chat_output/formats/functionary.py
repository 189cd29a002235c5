# SPDX-License-Identifier: MIT
"""Functionary's two forms. v3.2: the answer goes to recipients, `>>>all` is text, `>>>NAME` a call with its arguments
on the next line; the first `>>>` is the prompt's. v3.1: `<function=NAME>{...}</function>`.
"""

from __future__ import annotations

from coordinator.chat_output.formats.base import ChatFormat, Reading, Setting, TaggedFormat, arguments_rules
from coordinator.chat_output.gbnf import BLANK, Rules, quoted
from coordinator.chat_output.reader import Reader, Steps

_TO = ">>>"
_ALL = "all"


class FunctionaryV32(ChatFormat):
    """Recipients, one after another."""

    name = "functionary-v3.2"
    has_thought_tags = False
    is_always_marked = True

    def is_of(self, template: str) -> bool:
        return f"{_TO}{_ALL}" in template and _TO + "${recipient}" in template

    def grammar(self, setting: Setting, rules: Rules) -> str:
        wish, calls = setting.wish, None
        if wish.callables:
            options = [f"{quoted(name + chr(10))} {rule}" for name, rule in arguments_rules(setting, rules).items()]
            call = rules.add("call", " | ".join(options))
            more = f"({BLANK} {quoted(_TO)} {call})* " if wish.parallel else ""
            calls = rules.add("calls", f"{call} {more}{BLANK}")
        if wish.must_call:
            return str(calls)
        schema = wish.schema
        text = rules.until("text", {_TO: calls}) if schema is None else rules.schema("answer", schema, "")
        return f"{quoted(_ALL + chr(10))} {text}" + ("" if calls is None else f" | {calls}")

    def read(self, reader: Reader, reading: Reading) -> Steps[None]:
        words = (_TO,) if reading.reads_calls and not reading.is_json else ()
        while True:
            if (yield from reader.word(f"{_ALL}\n")) is not None or not reading.reads_calls:
                if (yield from reader.until(words, reader.content)) is None:
                    return
                continue
            name, _ = yield from reader.before("\n")
            reader.begin_call(name.strip())
            yield from reader.json_object(reader.arguments)
            if not (yield from reader.are_next(_TO)):
                return

    def begun(self, tags: tuple[str, str], thoughts: str, content: str | None) -> str:
        del tags, thoughts
        return f"{_ALL}\n{content or ''}"


class FunctionaryV31(TaggedFormat):
    """A tag for each call."""

    name = "functionary-v3.1"
    opener = "<function="
    closer = "</function>"

    def is_of(self, template: str) -> bool:
        return self.opener in template and self.closer in template and "<tool_call>" not in template

    def calls(self, setting: Setting, rules: Rules) -> dict[str, str]:
        options = [f"{quoted(name + '>')} {rule}" for name, rule in arguments_rules(setting, rules).items()]
        named = rules.add("named", " | ".join(options))
        call = rules.add("call", f"{named} {BLANK} {quoted(self.closer)}")
        more = f"({BLANK} {quoted(self.opener)} {call})* " if setting.wish.parallel else ""
        return {self.opener: rules.add("calls", f"{call} {more}{BLANK}")}

    def read_call(self, reader: Reader, reading: Reading, word: str) -> Steps[None]:
        del reading, word
        name, _ = yield from reader.before(">")
        reader.begin_call(name)
        yield from reader.json_object(reader.arguments)
        yield from reader.expect(self.closer)
