# SPDX-License-Identifier: MIT
"""From a conversation and a wish to what the line is given, and how its answer is read: the prompt as the model's own
template lays it out, the grammar that holds the answer, the format. Pure; called by the HTTP API, in a thread where
there are schemas.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coordinator.chat_output.formats.base import ChatFormat, Reading, Setting, TaggedFormat
from coordinator.chat_output.gbnf import Rules
from coordinator.chat_output.instructions import with_instructions
from coordinator.chat_output.parser import parse
from coordinator.chat_output.reader import BLANKS
from coordinator.chat_output.registry import GENERIC, format_of, thought_tags_of
from coordinator.chat_output.template_traits import PROBE, PROBED_KEY, TemplateTraits, thought_marks_of, traits_of
from coordinator.chat_output.tools import Wish
from coordinator.errors import InvalidRequestError
from coordinator.json_schema import grammar_of
from native import ChatTemplate, NativeError

ChatMessage = Mapping[str, Any]
"""As OpenAI has it, but for the arguments of calls, which are objects."""


@dataclass(frozen=True, slots=True)
class GoingOn:
    """How an answer goes on that is begun.

    Attributes:
        from_thoughts: It breaks off in the thoughts; else in the text.
        is_echoed: Streams begin with what it was begun with; whole answers always do.
    """

    from_thoughts: bool = False
    is_echoed: bool = True


@dataclass(frozen=True, slots=True)
class Layout:
    """A chat as a line takes it.

    Attributes:
        prompt: With special tokens written out.
        grammar: What holds the answer; empty: nothing.
        special: Special tokens that are part of the answer's text.
        reading: How the answer is read; None: it is text, and nothing else.
    """

    prompt: str
    grammar: str = ""
    special: tuple[str, ...] = ()
    reading: Reading | None = None


def lay_out(
    template: ChatTemplate,
    messages: Sequence[ChatMessage],
    wish: Wish,
    variables: Mapping[str, object] | None = None,
    going_on: GoingOn | None = None,
) -> Layout:
    """Lays a conversation out.

    Args:
        variables: what the template reads beside messages and tools.
        going_on: where the answer goes on with the last message, which is the assistant's; None: it is a new one.

    Raises:
        InvalidRequestError: the template refuses the messages, or the answer cannot be gone on with as it is wished.
        SchemaError: a schema cannot be held.
    """
    format_ = _format_for(template, messages, wish)
    others = {"enable_thinking": True, **(variables or {})}
    tags = thought_tags_of(template.source) if format_.has_thought_tags else None
    if going_on is not None:
        return _going_on(template, format_, messages, wish, others, tags, going_on)
    prompt = _prompt(template, format_, messages, wish, others)
    if tags is not None and prompt.rstrip(BLANKS).endswith(tags[1]):
        tags = None  # no thoughts are wanted: the prompt has closed them
    if tags is None and not format_.is_always_marked and not wish.tools:
        return Layout(prompt, "" if wish.schema is None else grammar_of(wish.schema))
    reading = Reading(
        format_.name,
        tags,
        # A grammar of the client's own knows nothing of thoughts that were begun.
        begun=_begun(prompt, tags[0]) if wish.is_held and tags is not None else "",
        reasoning_apart=wish.reasoning_apart,
        reads_calls=bool(wish.callables) and wish.is_held,
        is_json=wish.schema is not None,
        raw=format_.raw(wish.callables),
    )
    return Layout(prompt, _grammar(format_, wish, reading), (*format_.special, *(tags or ())), reading)


def _going_on(
    template: ChatTemplate,
    format_: ChatFormat,
    messages: Sequence[ChatMessage],
    wish: Wish,
    variables: Mapping[str, object],
    tags: tuple[str, str] | None,
    going_on: GoingOn,
) -> Layout:
    """A layout whose prompt ends in the middle of the last message, with the thoughts before it even where the template
    leaves those out. As llama-server has it: `peg_generator::generate_parser`, common/chat-auto-parser-generator.cpp.
    """
    if wish.schema is not None or (format_.is_always_marked and wish.tools):
        what = "a schema" if wish.schema is not None else "this model's tools"
        raise InvalidRequestError(f"an answer that is begun cannot be held by {what}: leave out one of them")
    *told, begun = messages
    before, after = (
        _prompt(template, format_, told, wish, {**variables, "add_generation_prompt": adds}) for adds in (False, True)
    )
    n_same = next((n for n, chars in enumerate(zip(before, after, strict=False)) if len(set(chars)) > 1), len(before))
    asked = after[n_same:]
    if tags is not None:
        asked = asked.partition(tags[0])[0]
    marks = ("", "") if tags is None else thought_marks_of(template, tags)
    content = None if going_on.from_thoughts else begun["content"]
    prefix = format_.begun(marks, begun.get("reasoning_content", ""), content)
    reading = Reading(
        format_.name,
        tags,
        prefix=prefix,
        is_echoed=going_on.is_echoed,
        reasoning_apart=wish.reasoning_apart,
        reads_calls=bool(wish.callables) and wish.is_held,
        raw=format_.raw(wish.callables),
    )
    # What holds the answer begins where the prompt ends.
    held = replace(reading, begun=marks[0]) if going_on.from_thoughts else replace(reading, thought_tags=None)
    grammar = _grammar(format_, wish, held)
    return Layout(before + asked + prefix, grammar, (*format_.special, *(tags or ())), reading)


def _begun(prompt: str, opening: str) -> str:
    """What the prompt ends with if that begins thoughts."""
    return prompt[prompt.rindex(opening) :] if prompt.rstrip(BLANKS).endswith(opening) else ""


def _format_for(template: ChatTemplate, messages: Sequence[ChatMessage], wish: Wish) -> ChatFormat:
    """The model's own format; ours where there are tools, and its template does not tell of them in a known form."""
    own = format_of(template.source)
    has_tools = bool(wish.tools) or any(message["role"] == "tool" or message.get("tool_calls") for message in messages)
    if not own.is_own or not has_tools:
        return own if own.is_own else GENERIC
    traits = traits_of(template)
    tells = bool(traits.told_call) and (traits.tells_tools or bool(own.example))
    return own if tells and _is_written(own, traits.told_call) else GENERIC


def _is_written(format_: ChatFormat, told: str) -> bool:
    """Whether the template has written a call in that format: marks in a template may be of another one."""
    if not isinstance(format_, TaggedFormat):
        return True
    calls = parse(told, Reading(format_.name, reads_calls=True), "").calls
    return any(call.name == PROBE and PROBED_KEY in call.arguments for call in calls)


def _grammar(format_: ChatFormat, wish: Wish, reading: Reading) -> str:
    if not wish.is_held or not (wish.tools or wish.schema is not None):
        return ""
    rules = Rules()
    return rules.text(format_.grammar(Setting(wish, reading), rules))


def _prompt(
    template: ChatTemplate,
    format_: ChatFormat,
    messages: Sequence[ChatMessage],
    wish: Wish,
    variables: Mapping[str, object],
) -> str:
    others = dict(variables)
    told: Sequence[ChatMessage]
    if format_ is GENERIC:
        told = GENERIC.as_text(messages)
    else:
        has_calls = any(message.get("tool_calls") for message in messages)
        told = [_adapted(format_, message, traits_of(template) if has_calls else None) for message in messages]
    if wish.tools and format_ is not GENERIC and traits_of(template).tells_tools:
        others["tools"] = [tool.as_told() for tool in wish.tools]
    elif wish.callables:
        told = with_instructions(told, wish.tools, format_.example)
    if told and told[0]["role"] == "system" and not traits_of(template).takes_system:
        told = _without_system(told)
    add_generation_prompt = bool(others.pop("add_generation_prompt", True))
    try:
        return template.render(told, add_generation_prompt=add_generation_prompt, **others)
    except (NativeError, TypeError) as error:
        raise InvalidRequestError(str(error)) from error


def _adapted(format_: ChatFormat, message: ChatMessage, traits: TemplateTraits | None) -> ChatMessage:
    calls = message.get("tool_calls")
    if calls and traits is not None:
        content = None if traits.takes_no_content else message["content"]
        told = calls if traits.takes_objects else [_with_text(call) for call in calls]
        message = {**message, "content": content, "tool_calls": told}
    return format_.adapted(message)


def _with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def _without_system(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The first message, which is the system's, as part of the next one, where that is the user's."""
    system, *others = messages
    if others and others[0]["role"] == "user":
        content = f"{system['content']}\n\n{others[0]['content']}"
        return [{**others[0], "content": content}, *others[1:]]
    return [{"role": "user", "content": system["content"]}, *others]
