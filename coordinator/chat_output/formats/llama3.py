# SPDX-License-Identifier: MIT
"""Llama 3.1, 3.2 and 3.3: the whole answer is `{"name": ..., "parameters": {...}}`, maybe behind `<|python_tag|>`.

An answer that is JSON of another shape is text. There is one call in an answer: the templates know no more.
"""

from __future__ import annotations

from coordinator.chat_output.formats.base import (
    ChatFormat,
    JsonCall,
    Reading,
    Setting,
    after_thoughts,
    arguments_rules,
    read_thoughts,
)
from coordinator.chat_output.gbnf import BLANK, Rules, quoted
from coordinator.chat_output.reader import CutError, MalformedError, Reader, Steps

_PYTHON = "<|python_tag|>"
_CALL = JsonCall(arguments_key="parameters")
_NAME, _TYPE = '"name"', '"type"'


class Llama3(ChatFormat):
    """JSON without tags."""

    name = "llama3"
    special = (_PYTHON,)

    def is_of(self, template: str) -> bool:
        return (
            '{"name": ' in template and '"parameters": ' in template and ("ipython" in template or _PYTHON in template)
        )

    def grammar(self, setting: Setting, rules: Rules) -> str:
        wish = setting.wish
        if not wish.callables:
            # What looks like a call is text where none may be.
            then = f"{BLANK} {rules.schema('answer', wish.schema, '')}" if wish.schema is not None else ".*"
            return after_thoughts(setting, rules, then)
        named = self._behind_name(setting, rules)
        typed = f" {BLANK} ".join([BLANK, '":"', quoted('"function"'), '","', f"{quoted(_NAME)} {named}"])
        keys = {_NAME: named, _TYPE: rules.add("typed", typed)}
        key = " | ".join(f"{quoted(key)} {follows}" for key, follows in keys.items())
        call = rules.add("call", f'{BLANK} "{{" {BLANK} ({key})')
        tagged = f"{BLANK} ({quoted(_PYTHON)})? {call}"
        if wish.must_call:
            then = tagged
        elif wish.schema is not None:
            then = f"{tagged} | {BLANK} {rules.schema('answer', wish.schema, '')}"
        else:
            # Any text, but where it begins as a call does, that call.
            free = rules.add("free", ".*")
            then = rules.beginning("text", {_PYTHON: call, "{": rules.beginning("key", keys, free)}, free)
        return after_thoughts(setting, rules, then)

    def _behind_name(self, setting: Setting, rules: Rules) -> str:
        """What follows the key of the name."""
        options = []
        for name, arguments in arguments_rules(setting, rules).items():
            parts = [quoted(":"), quoted(f'"{name}"'), quoted(","), quoted('"parameters"'), quoted(":"), arguments]
            options.append(f" {BLANK} ".join([*parts, quoted("}")]))
        return rules.add("named", f"{BLANK} ({' | '.join(options)}) {BLANK}")

    def read(self, reader: Reader, reading: Reading) -> Steps[None]:
        yield from read_thoughts(reader, reading)
        if reading.reads_calls:
            start = reader.mark()
            try:
                name = yield from self._read_name(reader)
            except (CutError, MalformedError):
                name = None
            if name is not None:
                yield from reader.expect(",", '"parameters"', ":")
                reader.begin_call(name)
                yield from reader.json_object(reader.arguments)
                yield from reader.expect("}")
                return
            reader.go_back(start)
        yield from reader.until((), reader.content)

    def _read_name(self, reader: Reader) -> Steps[str | None]:
        """The name of the tool, if a call begins here."""
        yield from reader.are_next(_PYTHON)
        if not (yield from reader.are_next("{")):
            return None
        yield from reader.are_next(_TYPE, ":", '"function"', ",")
        if not (yield from reader.are_next(_NAME, ":")):
            return None
        return (yield from reader.string())
