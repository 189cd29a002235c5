# SPDX-License-Identifier: MIT
"""What a chat template makes of tools, found out by trying it: there are hundreds, and what they take differs."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from native import ChatTemplate, ChatTemplateError

PROBE, PROBED_KEY, _VALUE = "caravan_tool", "caravan_key", "caravan_value"
_ASKED, _GIVEN = "caravan_asked", "caravan_given"
"""Words that no template says by itself."""
_ID = "caravan12"
"""Nine letters and digits: Mistral's templates refuse others."""

_USER = {"role": "user", "content": _ASKED}
_DESCRIBED = {
    "type": "function",
    "function": {
        "name": PROBE,
        "description": "a tool",
        "parameters": {"type": "object", "properties": {PROBED_KEY: {"type": "string"}}, "required": [PROBED_KEY]},
    },
}


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What one template takes.

    Attributes:
        tells_tools: It tells the model of tools.
        told_call: A call of the tool `PROBE`, what it gave, and what lies around, as the template has it; empty: it
            tells of no calls.
        takes_objects: Arguments of calls are objects to it; else JSON text.
        takes_no_content: A message with calls must have None as its content.
        takes_system: It takes system messages.
    """

    tells_tools: bool
    told_call: str
    takes_objects: bool
    takes_no_content: bool
    takes_system: bool


@functools.lru_cache(8)
def traits_of(template: ChatTemplate) -> TemplateTraits:
    """The traits of a template, which is rendered up to seven times for that, once."""
    takes_system = _VALUE in _rendered(template, [{"role": "system", "content": _VALUE}, _USER])
    tells_tools = PROBE in _rendered(template, [_USER], _DESCRIBED)
    for takes_objects in (True, False):
        for takes_no_content in (False, True):
            told = _told_call(template, takes_objects=takes_objects, takes_no_content=takes_no_content)
            if told:
                return TemplateTraits(tells_tools, told, takes_objects, takes_no_content, takes_system)
    return TemplateTraits(tells_tools, "", takes_objects=True, takes_no_content=False, takes_system=takes_system)


@functools.lru_cache(8)
def thought_marks_of(template: ChatTemplate, tags: tuple[str, str]) -> tuple[str, str]:
    """The tags with the blanks that the template writes around thoughts."""
    answer = {"role": "assistant", "reasoning_content": _GIVEN, "content": _VALUE}
    opening, closing = map(re.escape, tags)
    found = re.search(rf"({opening}\s*){_GIVEN}(\s*{closing}\s*){_VALUE}", _rendered(template, [_USER, answer]))
    return tags if found is None else (found[1], found[2])


def _told_call(template: ChatTemplate, *, takes_objects: bool, takes_no_content: bool) -> str:
    """A call and what it gave; empty if the template leaves anything out."""
    arguments: object = {PROBED_KEY: _VALUE} if takes_objects else f'{{"{PROBED_KEY}": "{_VALUE}"}}'
    call = {"id": _ID, "type": "function", "function": {"name": PROBE, "arguments": arguments}}
    asked = {"role": "assistant", "content": None if takes_no_content else "", "tool_calls": [call]}
    given = {"role": "tool", "tool_call_id": _ID, "name": PROBE, "content": _GIVEN}
    # Without descriptions of tools, which would say the same words.
    told = _rendered(template, [_USER, asked, given]).rpartition(_ASKED)[2]
    # A dictionary as Python writes it, or a text within a text, is not what the model was trained with.
    is_odd = f"'{PROBED_KEY}'" in told or f'\\"{PROBED_KEY}' in told
    is_whole = all(word in told for word in (PROBE, PROBED_KEY, _VALUE, _GIVEN))
    return told if is_whole and not is_odd else ""


def _rendered(template: ChatTemplate, messages: Sequence[Mapping[str, Any]], *tools: Mapping[str, Any]) -> str:
    try:
        return template.render(messages, tools=list(tools)) if tools else template.render(messages)
    except ChatTemplateError:
        return ""
