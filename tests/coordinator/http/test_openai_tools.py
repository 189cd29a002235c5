# SPDX-License-Identifier: MIT
"""Function calling as OpenAI documents it, by its own client. The model knows nothing of tools: what is checked here is
the form of what comes, not its sense.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from tests.coordinator.http.conftest import MODEL

FEATURE = "tools"

_MESSAGES = [{"role": "user", "content": "What is the weather in Cusco?"}]
_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place now.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "maxLength": 12}, "unit": {"enum": ["celsius", "kelvin"]}},
            "required": ["place", "unit"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
_LOAD = {
    "type": "function",
    "function": {
        "name": "load_llama",
        "parameters": {
            "type": "object",
            "properties": {"kilograms": {"type": "integer", "minimum": 1, "maximum": 60}},
            "required": ["kilograms"],
            "additionalProperties": False,
        },
    },
}
_NAMED = {"type": "function", "function": {"name": "load_llama"}}


def _chat(client: openai.OpenAI, **fields: object) -> Any:  # noqa: ANN401 -- an answer or a stream of chunks
    create: Any = client.chat.completions.create
    defaults = {"model": MODEL, "messages": _MESSAGES, "tools": [_WEATHER, _LOAD], "temperature": 0.0}
    return create(**(defaults | {"max_tokens": 300} | fields))


def _put_together(chunks: Iterable[Any]) -> tuple[list[dict[str, str]], str | None]:
    """Calls as their deltas make them, and why the stream ended."""
    calls: dict[int, dict[str, str]] = {}
    reason = None
    for chunk in chunks:
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            for delta in choice.delta.tool_calls or []:
                call = calls.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
                call["id"] = delta.id or call["id"]
                if delta.function is not None:
                    call["name"] += delta.function.name or ""
                    call["arguments"] += delta.function.arguments or ""
    return [calls[index] for index in sorted(calls)], reason


@pytest.mark.parametrize("choice", ["required", _NAMED], ids=["required", "named"])
def test_a_call_that_is_demanded_comes_with_arguments_by_its_schema(client: openai.OpenAI, choice: object) -> None:
    answer = _chat(client, tool_choice=choice)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    (call, *_) = message.tool_calls
    assert (call.type, bool(call.id)) == ("function", True)
    arguments = json.loads(call.function.arguments)
    if choice is _NAMED or call.function.name == "load_llama":
        assert call.function.name == "load_llama"
        assert 1 <= arguments["kilograms"] <= 60
    else:
        assert call.function.name == "get_weather"
        assert arguments["unit"] in ("celsius", "kelvin")


def test_a_streamed_call_is_the_whole_one(client: openai.OpenAI) -> None:
    whole = _chat(client, tool_choice=_NAMED).choices[0]
    calls, reason = _put_together(_chat(client, tool_choice=_NAMED, stream=True))
    assert reason == whole.finish_reason == "tool_calls"
    assert [call["name"] for call in calls] == [call.function.name for call in whole.message.tool_calls]
    assert [json.loads(call["arguments"]) for call in calls] == [
        json.loads(call.function.arguments) for call in whole.message.tool_calls
    ]
    assert all(call["id"] for call in calls)


def test_without_parallel_calls_there_is_one(client: openai.OpenAI) -> None:
    message = _chat(client, tool_choice="required", parallel_tool_calls=False).choices[0].message
    assert len(message.tool_calls) == 1


def test_where_tools_are_not_to_be_called_text_comes(client: openai.OpenAI) -> None:
    choice = _chat(client, tool_choice="none", max_tokens=12).choices[0]
    assert choice.message.content
    assert not choice.message.tool_calls


def test_where_it_may_choose_either_comes(client: openai.OpenAI) -> None:
    choice = _chat(client, max_tokens=24).choices[0]
    assert bool(choice.message.content) != bool(choice.message.tool_calls)
    assert choice.finish_reason in ("stop", "length", "tool_calls")


def test_the_result_of_a_call_goes_back_to_the_model(client: openai.OpenAI) -> None:
    asked = _chat(client, tool_choice="required", parallel_tool_calls=False).choices[0].message
    (call,) = asked.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"celsius": 12}'}
    answer = _chat(client, messages=[*_MESSAGES, asked.model_dump(exclude_none=True), result], max_tokens=12)
    assert answer.choices[0].message.role == "assistant"


class GetWeather(BaseModel):
    """The weather at a place."""

    place: str = Field(max_length=12)


def test_a_pydantic_model_is_a_tool_and_its_arguments(client: openai.OpenAI) -> None:
    parse: Any = client.chat.completions.parse
    answer = parse(
        model=MODEL,
        messages=_MESSAGES,
        tools=[openai.pydantic_function_tool(GetWeather)],
        tool_choice="required",
        temperature=0.0,
        max_tokens=300,
    )
    (call, *_) = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, GetWeather)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}]},
        {"tools": "get_weather"},
        {"tool_choice": {"type": "function", "function": {"name": "nowhere"}}},
        {"tools": [], "tool_choice": "required"},
    ],
    ids=["no function", "no list", "another function", "none to choose from"],
)
def test_what_is_no_tool_is_a_bad_request(client: openai.OpenAI, fields: dict[str, object]) -> None:
    with pytest.raises(openai.BadRequestError):
        _chat(client, **fields)


async def test_a_call_is_streamed_to_asyncio(async_client: openai.AsyncOpenAI) -> None:
    create: Any = async_client.chat.completions.create
    stream = await create(
        model=MODEL,
        messages=_MESSAGES,
        tools=[_LOAD],
        tool_choice="required",
        parallel_tool_calls=False,
        stream=True,
        max_tokens=300,
    )
    calls, reason = _put_together([chunk async for chunk in stream])
    assert reason == "tool_calls"
    assert 1 <= json.loads(calls[0]["arguments"])["kilograms"] <= 60
