# SPDX-License-Identifier: MIT
"""Conversations with calls in them, as the templates of models take them: what they take is found out by trying."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.chat_output import GoingOn, OutputParser, Wish, lay_out, message_of, parse
from coordinator.chat_output.template_traits import traits_of
from coordinator.errors import InvalidRequestError
from native import ChatTemplate
from tests.coordinator.chat_output.answers import TOOLS, deepseek, template

_CALL = {"id": "call12345", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
_TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [_CALL]},
    {"role": "tool", "content": "3 mm", "tool_call_id": "call12345", "name": "weather"},
    {"role": "tool", "content": "5 mm", "tool_call_id": "call12345", "name": "weather"},
]
_TOLD = "{% if tools %}{{ tools | map(attribute='function') | map(attribute='name') | join(',') }};{% endif %}"
_EACH = "{% for m in messages %}"
_SAID = "{{ m.role }}:{{ m.content }}"
_END = "|{% endfor %}"


def _prompt(source: str, *, tools: bool = True) -> str:
    return lay_out(ChatTemplate(source, bos="", eos=""), _TALK, Wish(TOOLS if tools else ())).prompt


_HERMES = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
_OBJECT, _TEXT = "{{ c.function.arguments | tojson }}", "{{ '' + c.function.arguments }}"


def _hermes(arguments: str) -> str:
    return '<tool_call>{"name": "{{ c.function.name }}", "arguments": ' + arguments + "}</tool_call>"


@pytest.mark.parametrize(
    ("call", "told"),
    [
        # Arguments as objects (Qwen, Llama), as text (Functionary), only without content (DeepSeek), one by one.
        (_hermes(_OBJECT), _HERMES),
        (_hermes(_TEXT), _HERMES),
        ("{% if m.content is none %}" + _hermes(_OBJECT) + "{% endif %}", _HERMES),
        ("<tool_call><function={{ c.function.name }}>{% for k, v in c.function.arguments | items %}"
         "<parameter={{ k }}>\n{{ v }}\n</parameter>{% endfor %}</function></tool_call>",
         "<tool_call><function=weather><parameter=city>\nOslo\n</parameter></function></tool_call>"),
    ],
)  # fmt: skip
def test_calls_are_told_as_the_template_takes_them(call: str, told: str) -> None:
    calls = "{% for c in m.tool_calls or [] %}" + call + "{% endfor %}"
    prompt = _prompt(f"{_TOLD}{_EACH}{_SAID}{calls}{_END}")
    assert prompt.startswith("weather,clock;system:Be brief.|user:Rain?|assistant:")
    assert f"{told}|tool:3 mm|tool:5 mm|" in prompt


def test_a_template_that_tells_of_calls_alone_has_tools_told_by_us() -> None:
    call = "[tool calls begin][tool call begin]{{ c.function.name }}[tool sep]{{ c.function.arguments | tojson }}"
    calls = "{% for c in m.tool_calls or [] %}" + call + "[tool call end][tool calls end]{% endfor %}"
    prompt = _prompt(deepseek(f"{_EACH}{_SAID}{calls}{_END}"))
    assert prompt.startswith("system:Be brief.\n\nYou may call functions")
    assert deepseek("[tool calls begin][tool call begin]NAME[tool sep]ARGUMENTS[tool call end]") in prompt
    assert deepseek('[tool call begin]weather[tool sep]{"city": "Oslo"}[tool call end]') in prompt


def test_a_template_that_writes_calls_otherwise_than_its_marks_say_is_not_trusted() -> None:
    calls = "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}=" + _OBJECT + "{% endfor %}"
    assert "You may call functions" in _prompt(f"{_TOLD}{_EACH}{_SAID}{calls}{_END}")


def test_thoughts_of_earlier_answers_reach_the_template() -> None:
    source = _TOLD + _EACH + "{{ m.reasoning_content }}{{ m.thinking }}" + _SAID
    source += "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}" + _END
    assert "|Hm.assistant:" in _prompt(source)
    assert "|Hm.Hm.assistant:" in _prompt(source + "{# <|start|> <|channel|> #}")


def test_a_template_without_tools_is_told_of_them_in_a_message_of_ours() -> None:
    prompt = _prompt(f"{_EACH}{_SAID}{_END}")
    assert prompt.startswith("system:Be brief.\n\nYou may call functions")
    assert '"description": "What the weather will be"' in prompt
    assert '|assistant:<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>|' in prompt
    assert prompt.endswith(
        "|user:<tool_response>\n3 mm\n</tool_response>\n<tool_response>\n5 mm\n</tool_response>|"
    )  # fmt: skip
    assert _prompt(f"{_EACH}{_SAID}{_END}", tools=False).startswith("system:Be brief.|user:Rain?|assistant:<tool_call>")


def test_a_template_without_a_system_role_has_it_in_the_first_message() -> None:
    source = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}" + _SAID + _END
    assert not traits_of(ChatTemplate(source, bos="", eos="")).takes_system
    prompt = _prompt(source, tools=False)
    assert prompt.startswith("user:Be brief.\n\nRain?|assistant:")


_THINKS = "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
_ASKS = "{% if add_generation_prompt %}assistant:{% endif %}"
_OPENS = "{% if add_generation_prompt %}"
_HARMONY = "{# <|start|> <|channel|> #}<|start|>user<|message|>Rain?<|end|>" + _OPENS + "<|start|>assistant{% endif %}"
_ANALYSIS = "<|start|>user<|message|>Rain?<|end|><|start|>assistant<|channel|>analysis<|message|>Hm"
_FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
_FUNCTIONARY = "{# >>>all >>>${recipient} #}user:Rain?|" + _OPENS + ">>>{% endif %}"


@pytest.mark.parametrize(
    ("source", "going_on", "prompt", "rest", "content", "reasoning"),
    [
        # Without thoughts; with those that the template writes; with those that it leaves out and the prompt opens.
        (f"{_EACH}{_SAID}{_END}{_ASKS}", GoingOn(), "user:Rain?|assistant:So ", "be\nit.", "So be\nit.", ""),
        (f"{_EACH}{{{{ m.role }}}}:{_THINKS}{{{{ m.content }}}}{_END}{_ASKS}", GoingOn(),
         "user:Rain?|assistant:<think>\nHm\n</think>\n\nSo ", "be it.", "So be it.", "Hm"),
        (f"{_EACH}{_SAID}{_END}{{# </think> #}}{_ASKS}{_OPENS}<think>\n{{% endif %}}", GoingOn(from_thoughts=True),
         "user:Rain?|assistant:<think>Hm", "m, no.</think>\n\nDry.", "Dry.", "Hmm, no."),
        (_HARMONY, GoingOn(), f"{_ANALYSIS}{_FINAL}So ", "be it.", "So be it.", "Hm"),
        (_HARMONY, GoingOn(from_thoughts=True), _ANALYSIS, f"m.{_FINAL}Dry.", "Dry.", "Hmm."),
        (_FUNCTIONARY, GoingOn(), "user:Rain?|>>>all\nSo ", "be it.", "So be it.", ""),
    ],
)  # fmt: skip
def test_an_answer_that_is_begun_is_gone_on_with(
    source: str, going_on: GoingOn, prompt: str, rest: str, content: str, reasoning: str
) -> None:
    begun = {"role": "assistant", "content": "So ", "reasoning_content": "Hm"}
    laid_out = lay_out(ChatTemplate(source, bos="", eos=""), [_TALK[1], begun], Wish(), None, going_on)
    assert laid_out.prompt == prompt
    assert laid_out.reading is not None
    whole = parse(rest, laid_out.reading, "a")
    assert (whole.content, whole.reasoning) == (content, reasoning)
    known = parse("", laid_out.reading, "a")
    assert (known.content, known.reasoning) in {("So ", reasoning), ("", "Hm")}
    for is_echoed in (True, False):
        parser = OutputParser(replace(laid_out.reading, is_echoed=is_echoed), "a")
        told = message_of([delta for char in rest for delta in parser.push(char)] + parser.finish())
        before = ("", "") if is_echoed else (known.content, known.reasoning)
        assert (before[0] + told.content, before[1] + told.reasoning) == (content, reasoning)


def test_what_cannot_hold_an_answer_that_is_begun_is_refused() -> None:
    begun = [_TALK[1], {"role": "assistant", "content": "{"}]
    harmony = template("<|start|> <|channel|>")
    for wish, what in ((Wish(schema={"type": "object"}), "a schema"), (Wish(TOOLS), "this model's tools")):
        with pytest.raises(InvalidRequestError, match=f"an answer that is begun cannot be held by {what}"):
            lay_out(harmony, begun, wish, None, GoingOn())
