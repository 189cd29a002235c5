# SPDX-License-Identifier: MIT
"""gpt-oss: channels. `analysis` is thoughts, `final` is text, a message to `functions.NAME` is a call, whose arguments
it is; what goes to nobody on `commentary` is text before calls. Source of the form: OpenAI's "Harmony response format".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from coordinator.chat_output.formats.base import ChatFormat, Reading, Setting, arguments_rules
from coordinator.chat_output.gbnf import BLANK, Rules, quoted
from coordinator.chat_output.reader import Reader, Steps

_START, _CHANNEL, _MESSAGE, _END = "<|start|>", "<|channel|>", "<|message|>", "<|end|>"
_CONSTRAIN = "<|constrain|>"
_TO = " to=functions."
_RECIPIENT = re.compile(r"to=functions\.([^ <]+)")
# Messages to tools that there are none of; what they say is for nobody.
_OTHER = re.compile(r"to=(?!assistant)")


class GptOss(ChatFormat):
    """Messages, each with a head that says what it is."""

    name = "gpt-oss"
    special = (_START, _CHANNEL, _MESSAGE, _END, _CONSTRAIN)
    has_thought_tags = False
    is_always_marked = True

    def is_of(self, template: str) -> bool:
        return _CHANNEL in template and _START in template

    def grammar(self, setting: Setting, rules: Rules) -> str:
        wish = setting.wish
        heads = ["analysis-message"]
        recipients: list[str] = []
        if wish.callables:
            named = self._named(setting, rules)
            call = rules.add("call", f"{quoted('commentary' + _TO)} {named} | {quoted('analysis' + _TO)} {named}")
            heads.append(call)
            recipients.append(self._recipient_first(setting, rules))
        if not wish.must_call:
            heads += ["final-message", "preamble"]
        turn = rules.add("turn", f"{quoted(_CHANNEL)} ({' | '.join(heads)})")
        begun = " | ".join([turn, *recipients])
        following = rules.add("following", f"{BLANK} {quoted(_START + 'assistant')} ({begun})")
        thoughts = rules.until("thoughts", {_END: following}, may_end=not wish.must_call)
        rules.add("analysis-message", f"{quoted('analysis' + _MESSAGE)} {thoughts}")
        if not wish.must_call:
            if wish.schema is not None:
                final = rules.schema("answer", wish.schema, "")
            else:
                final = rules.until("final", {_END: BLANK, _START: None, _CHANNEL: None})
            json = f'(" "? {quoted(_CONSTRAIN)} "json")?' if wish.schema is not None else ""
            rules.add("final-message", f"{quoted('final')} {json} {quoted(_MESSAGE)} {final}")
            said = rules.until("said", {_END: following, _START: None, _CHANNEL: None})
            rules.add("preamble", f"{quoted('commentary' + _MESSAGE)} {said}")
        return begun

    def _named(self, setting: Setting, rules: Rules) -> str:
        """A tool's name with the rest of the head, and its arguments."""
        json = rules.add("json", f'" "? ({quoted(_CONSTRAIN)}? "json")? {quoted(_MESSAGE)} {BLANK}')
        arguments = arguments_rules(setting, rules)
        options = [f"{quoted(name)} {json} {rule} {BLANK}" for name, rule in arguments.items()]
        return rules.add("named", " | ".join(options))

    def _recipient_first(self, setting: Setting, rules: Rules) -> str:
        """The recipient may stand before the channel."""
        channel = rules.add("channel", f"{quoted(_CHANNEL)} ({quoted('commentary')} | {quoted('analysis')}) json")
        options = [
            f"{quoted(tool.name)} {channel} arguments-{number} {BLANK}"
            for number, tool in enumerate(setting.wish.callables)
        ]
        return rules.add("addressed", f"{quoted(_TO)} ({' | '.join(options)})")

    def read(self, reader: Reader, reading: Reading) -> Steps[None]:
        start = reader.mark()
        if (yield from reader.word(_CHANNEL, _TO)) is None:
            yield from reader.until((), reader.content)
            return
        reader.go_back(start)
        while True:
            head, _ = yield from reader.before(_MESSAGE)
            recipient = _RECIPIENT.search(head)
            if recipient is not None and reading.reads_calls:
                reader.begin_call(recipient[1])
                yield from reader.json_object(reader.arguments)
                yield from reader.are_next(_END)
            elif (yield from self._read_message(reader, reading, head)) is None:
                return

    def _read_message(self, reader: Reader, reading: Reading, head: str) -> Steps[str | None]:
        if _OTHER.search(head):
            return (yield from reader.until((_END,), lambda _: None))
        if f"{_CHANNEL}analysis" not in head:
            return (yield from reader.until((_END,), reader.content))
        if reading.reasoning_apart:
            return (yield from reader.until((_END,), reader.reasoning))
        reader.content(f"{_CHANNEL}analysis{_MESSAGE}")
        word = yield from reader.until((_END,), reader.content)
        reader.content(word or "")
        return word

    def begun(self, tags: tuple[str, str], thoughts: str, content: str | None) -> str:
        del tags
        analysis = f"{_CHANNEL}analysis{_MESSAGE}{thoughts}"
        return analysis if content is None else f"{analysis}{_END}{_START}assistant{_CHANNEL}final{_MESSAGE}{content}"

    def adapted(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Its template knows thoughts by another name, and takes them or text with calls, not both."""
        thoughts = message.get("reasoning_content")
        if not thoughts:
            return message
        if message.get("tool_calls"):
            return {**message, "thinking": thoughts, "content": ""}
        return {**message, "thinking": thoughts}
