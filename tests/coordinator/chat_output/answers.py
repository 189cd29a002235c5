# SPDX-License-Identifier: MIT
"""Answers as models of each family write them, with what is to be read of them; and templates with the marks by which
the families are known.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.chat_output import Tool
from native import ChatTemplate

WEATHER = Tool(
    "weather",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "What the weather will be",
)
CLOCK = Tool("clock", {"type": "object", "properties": {}})
TOOLS = (WEATHER, CLOCK)

_BAR, _GAP = "\uff5c", "\u2581"
_OSLO = '{"city": "Oslo", "days": 2}'


def deepseek(text: str) -> str:
    """With DeepSeek's signs in place of `[tool calls begin]` and the like."""
    for name in ("tool calls begin", "tool calls end", "tool call begin", "tool call end", "tool sep"):
        text = text.replace(f"[{name}]", f"<{_BAR}{name.replace(' ', _GAP)}{_BAR}>")
    return text


_ARGUMENTS = "{{ call.function.arguments | tojson }}"
_CALLS = {
    "<tool_call>": "<tool_call>{{ call.function | tojson }}</tool_call>",
    "[TOOL_CALLS]": "[TOOL_CALLS][{{ call.function | tojson }}]",
    "[ARGS]": "[TOOL_CALLS]{{ call.function.name }}[ARGS]" + _ARGUMENTS,
    deepseek("[tool calls begin]"): deepseek(
        "[tool calls begin][tool call begin]{{ call.function.name }}[tool sep]" + _ARGUMENTS + "[tool call end]"
    ),
    "```json": deepseek(
        "[tool calls begin][tool call begin]function[tool sep]{{ call.function.name }}\n```json\n" + _ARGUMENTS
    ),
    "<function=": "<function={{ call.function.name }}>" + _ARGUMENTS + "</function>",
    "<parameter=": "<tool_call><function={{ call.function.name }}>"
    "{% for key, value in call.function.arguments | items %}<parameter={{ key }}>{{ value }}\n</parameter>{% endfor %}"
    "</function></tool_call>",
}
"""How a template with a mark writes a call."""


def template(marks: str, opens: str = "") -> ChatTemplate:
    """One that tells of tools and calls if it has marks, with these in it, and this behind what opens the answer."""
    call = next((call for mark, call in reversed(_CALLS.items()) if mark in marks), "{{ call.function | tojson }}")
    source = (
        "{# "
        + marks
        + " #}"
        + ("{% if tools %}{{ tools | tojson }}{% endif %}" if marks else "")
        + "{% for message in messages %}[{{ message.role }}]{{ message.reasoning_content }}{{ message.content }}"
        "{% for call in message.tool_calls or [] %}" + call + "{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]" + opens + "{% endif %}"
    )
    return ChatTemplate(source, bos="", eos="")


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer.

    Attributes:
        format: by which it is read.
        marks: of the model's template.
        opens: what the template ends the prompt with.
        calls: name and arguments.
    """

    format: str
    marks: str
    text: str
    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    opens: str = ""


_HERMES = f'<tool_call>\n{{"name": "weather", "arguments": {_OSLO}}}\n</tool_call>'
_THINK = "<tool_call> </think>"
_CODER = "<tool_call> <function= <parameter="
_HARMONY = "<|start|> <|channel|>"
_LLAMA = '<|python_tag|> {"name": NAME, "parameters": ARGUMENTS}'
_COHERE = "<|START_ACTION|> <|START_RESPONSE|> <|END_THINKING|>"
_CALLED = (("weather", _OSLO),)
_BOTH = (("weather", _OSLO), ("clock", "{}"))

SAMPLES = (
    Sample("hermes", "<tool_call>", f"I look.\n\n{_HERMES}", "I look.", calls=_CALLED),
    Sample("hermes", "<tool_call>", "a < b, <tool_ and <tool_call\n", "a < b, <tool_ and <tool_call\n"),
    Sample(
        "hermes",
        "<tool_call>",
        f'{_HERMES}\n<tool_call>\n{{"name":"clock","arguments":{{}}}}\n</tool_call>',
        calls=_BOTH,
    ),
    Sample(
        "hermes",
        _THINK,
        f"<think>\nA <tool_call> may do.\n</think>\n\nI look. {_HERMES}",
        "I look.",
        "A <tool_call> may do.",
        _CALLED,
    ),
    Sample("hermes", _THINK, "Hm.\n</think>\n\n Yes.\n", "Yes.\n", "Hm.", opens="<think>\n"),
    Sample("hermes", _THINK, f"Hm.</think>{_HERMES}", reasoning="Hm.", calls=_CALLED, opens="<think>"),
    Sample("hermes", _THINK, "No thoughts </think>", "No thoughts </think>"),
    Sample(
        "mistral-array",
        "[TOOL_CALLS]",
        f'[TOOL_CALLS][{{"name": "weather", "arguments": {_OSLO}, "id": "abc123DEF"}}, '
        '{"name": "clock", "arguments": {}}]',
        calls=_BOTH,
    ),
    Sample(
        "mistral-named",
        "[TOOL_CALLS] [ARGS] [/THINK]",
        f"[THINK]Hm.[/THINK]So[TOOL_CALLS]weather[CALL_ID]abc123DEF[ARGS]{_OSLO}[TOOL_CALLS]clock[ARGS]{{}}",
        "So",
        "Hm.",
        _BOTH,
    ),
    Sample(
        "deepseek-r1",
        deepseek("[tool calls begin] ```json </think>"),
        deepseek(
            "Hm.\n</think>\n\n[tool calls begin][tool call begin]function[tool sep]weather\n```json\n"
            f"{_OSLO}\n```[tool call end]\n[tool call begin]function[tool sep]clock\n```json\n{{}}\n```[tool call end]"
            "[tool calls end]"
        ),
        reasoning="Hm.",
        calls=_BOTH,
        opens="<think>\n",
    ),
    Sample(
        "deepseek-v3.1",
        deepseek("[tool calls begin]"),
        deepseek(f"So.[tool calls begin][tool call begin]weather[tool sep]{_OSLO}[tool call end][tool calls end]"),
        "So.",
        calls=_CALLED,
    ),
    Sample(
        "qwen3-coder",
        _CODER,
        'I look.\n<tool_call>\n<function=weather>\n<parameter=city>\nOslo "<b>"\n</parameter>\n<parameter=days>\n2\n'
        "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=clock>\n</function>\n</tool_call>",
        "I look.",
        calls=(("weather", '{"city": "Oslo \\"<b>\\"", "days": 2}'), ("clock", "{}")),
    ),
    Sample(
        "qwen3-coder",
        f"{_CODER} </think>",
        "I look.\n<tool_call>\n<function=clock>\n</function>\n</tool_call>",
        reasoning="I look.",
        calls=(("clock", "{}"),),
        opens="<think>\n",
    ),
    Sample(
        "qwen3-coder",
        _CODER,
        "I look.\n<function=clock>\n</function>\n</tool_call>",
        "I look.",
        calls=(("clock", "{}"),),
    ),
    Sample("llama3", _LLAMA, f'{{"name": "weather", "parameters": {_OSLO}}}', calls=_CALLED),
    Sample(
        "llama3",
        _LLAMA,
        f'<|python_tag|>{{"type": "function", "name": "weather", "parameters": {_OSLO}}}'.replace(
            '"type": "function", ', ""
        ),
        calls=_CALLED,
    ),
    Sample(
        "llama3",
        _LLAMA,
        f' {{"type": "function", "name": "weather", "parameters": {_OSLO}}}',
        calls=_CALLED,
    ),
    Sample("llama3", _LLAMA, '{"names": ["weather"]} is JSON', '{"names": ["weather"]} is JSON'),
    Sample(
        "command-r7b",
        _COHERE,
        f'<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": "weather", '
        f'"parameters": {_OSLO}}},\n    {{"tool_call_id": "1", "tool_name": "clock", "parameters": {{}}}}\n]'
        "<|END_ACTION|>",
        reasoning="Hm.",
        calls=_BOTH,
    ),
    Sample("command-r7b", _COHERE, "<|START_RESPONSE|>Rain.<|END_RESPONSE|>", "Rain."),
    Sample(
        "functionary-v3.2", ">>>all >>>${recipient}", f"all\nI look.\n>>>weather\n{_OSLO}", "I look.", calls=_CALLED
    ),
    Sample("functionary-v3.2", ">>>all >>>${recipient}", f"weather\n{_OSLO}>>>clock\n{{}}", calls=_BOTH),
    Sample(
        "functionary-v3.1", "<function= </function>", f"So.\n<function=weather>{_OSLO}</function>", "So.", calls=_CALLED
    ),
    Sample(
        "gpt-oss",
        _HARMONY,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        f"<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{_OSLO}",
        "I look.",
        "Hm.",
        _CALLED,
    ),
    Sample(
        "gpt-oss",
        _HARMONY,
        f" to=functions.weather<|channel|>commentary json<|message|>{_OSLO}",
        calls=_CALLED,
    ),
    Sample(
        "gpt-oss",
        _HARMONY,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Rain.",
        "Rain.",
        "Hm.",
    ),
    Sample("generic", "", f"I look. {_HERMES}", "I look.", calls=_CALLED),
)
