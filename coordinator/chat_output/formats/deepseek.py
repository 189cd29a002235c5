# SPDX-License-Identifier: MIT
"""DeepSeek's two forms: R1 and V3 write a call's arguments as a Markdown block, V3.1 as they are."""

from __future__ import annotations

from typing import ClassVar

from coordinator.chat_output.formats.base import Reading, Setting, TaggedFormat, arguments_rules
from coordinator.chat_output.gbnf import BLANK, Rules, quoted
from coordinator.chat_output.reader import MalformedError, Reader, Steps


def _tag(name: str) -> str:
    return "<\uff5c" + name.replace(" ", "\u2581") + "\uff5c>"


_CALLS, _CALLS_END = _tag("tool calls begin"), _tag("tool calls end")
_CALL, _CALL_END, _SEPARATOR = _tag("tool call begin"), _tag("tool call end"), _tag("tool sep")
_FENCE = "```"


class _DeepSeek(TaggedFormat):
    """Tags around all calls, and around each."""

    opener = _CALLS
    special = (_CALLS, _CALLS_END, _CALL, _CALL_END, _SEPARATOR)
    kind: ClassVar[str]
    """What stands before a name."""
    before: ClassVar[str]
    """What stands before the arguments."""
    behind: ClassVar[str]
    """What stands behind them."""

    def calls(self, setting: Setting, rules: Rules) -> dict[str, str]:
        before, behind = quoted(self.before), f"{BLANK} {quoted(self.behind)} " if self.behind else ""
        options = [f"{quoted(name)} {before} {BLANK} {rule}" for name, rule in arguments_rules(setting, rules).items()]
        named = rules.add("named", " | ".join(options))
        call = rules.add("call", f"{quoted(_CALL + self.kind)} {named} {behind}{BLANK} {quoted(_CALL_END)}")
        more = f"({BLANK} {call})* " if setting.wish.parallel else ""
        return {self.opener: rules.add("calls", f"{BLANK} {call} {more}{BLANK} {quoted(_CALLS_END)} {BLANK}")}

    def read_call(self, reader: Reader, reading: Reading, word: str) -> Steps[None]:
        del reading, word
        while not (yield from reader.are_next(_CALLS_END)):
            yield from reader.expect(_CALL + self.kind)
            name, _ = yield from reader.before(self.before)
            if not name:
                raise MalformedError
            reader.begin_call(name)
            yield from reader.json_object(reader.arguments)
            yield from reader.expect(*([self.behind] if self.behind else []), _CALL_END)


class DeepSeekR1(_DeepSeek):
    """A Markdown block for each call."""

    name = "deepseek-r1"
    kind = f"function{_SEPARATOR}"
    before = f"\n{_FENCE}json\n"
    behind = _FENCE
    example = f"{_CALLS}{_CALL}{kind}NAME{before}ARGUMENTS\n{behind}{_CALL_END}{_CALLS_END}"

    def is_of(self, template: str) -> bool:
        return _CALLS in template and _FENCE in template


class DeepSeekV31(_DeepSeek):
    """The arguments behind the name."""

    name = "deepseek-v3.1"
    kind = ""
    before = _SEPARATOR
    behind = ""
    example = f"{_CALLS}{_CALL}NAME{before}ARGUMENTS{_CALL_END}{_CALLS_END}"

    def is_of(self, template: str) -> bool:
        return _CALLS in template
