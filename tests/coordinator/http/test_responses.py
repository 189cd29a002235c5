# SPDX-License-Identifier: MIT
"""`/v1/responses` over two real workers, by OpenAI's own client: the same answers as chats, in the other form."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel, Field, ValidationError

from coordinator.http.rejection import RejectedError
from coordinator.http.schemas.response_request import ResponseRequest
from coordinator.http.translate import messages_of
from tests.coordinator.http.conftest import MODEL

_ASK = "Tell me a story about a llama."
_TOOL: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Lima"]}}, "required": ["city"]},
    "strict": True,
}


def _respond(client: openai.OpenAI, **fields: object) -> Response:
    return cast(Response, _ask_response(client, fields))


def _ask_response(client: openai.OpenAI, fields: dict[str, object]) -> object:
    create: Any = client.responses.create
    return create(**({"model": MODEL, "input": _ASK, "max_output_tokens": 40, "temperature": 0} | fields))


def test_a_response_says_what_a_chat_says(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": _ASK}],
        max_tokens=40,
        temperature=0,
    )
    response = _respond(client, instructions="Be brief.", store=True, include=["message.output_text.logprobs"])
    assert response.output_text == chat.choices[0].message.content
    assert chat.usage is not None
    assert response.usage is not None
    assert response.usage.output_tokens == chat.usage.completion_tokens == 40
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.incomplete_details is not None
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    message: Any = response.output[0]
    assert message.status == "incomplete"
    assert len(message.content[0].logprobs) == 40
    assert (response.model, response.instructions) == (MODEL, "Be brief.")


def test_its_events_tell_the_same_in_openais_order(client: openai.OpenAI) -> None:
    whole = _respond(client)
    events: list[Any] = list(cast(Iterable[object], _ask_response(client, {"stream": True})))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-4].text == events[-1].response.output_text
    assert whole.usage is not None
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


def test_a_function_is_called_and_its_output_sent_back(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"tools": [_TOOL], "max_output_tokens": 300, "temperature": 1, "extra_body": {"seed": 4}}
    fields |= {"tool_choice": {"type": "function", "name": "weather"}}
    response = _respond(client, **fields)
    calls: list[Any] = list(response.output)
    (call,) = calls
    assert (call.type, call.name, response.status) == ("function_call", "weather", "completed")
    assert json.loads(call.arguments)["city"] in ("Oslo", "Lima")
    with client.responses.stream(model=MODEL, input=_ASK, **fields) as stream:
        events = list(stream)
        streamed = stream.get_final_response()
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    again: Any = streamed.output[0]
    assert "".join(pieces) == again.arguments == call.arguments
    given = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    talk = [{"role": "user", "content": _ASK}, call.model_dump(), given]
    assert _respond(client, input=talk, tools=[_TOOL], tool_choice="none").output_text


class _Llama(BaseModel):
    name: str = Field(max_length=8)
    is_calm: bool


def test_openais_client_parses_its_text_into_a_pydantic_model(client: openai.OpenAI) -> None:
    response = client.responses.parse(model=MODEL, input=_ASK, text_format=_Llama, extra_body={"seed": 2})
    assert isinstance(response.output_parsed, _Llama)


def test_items_of_one_answer_become_one_message() -> None:
    items: list[dict[str, Any]] = [
        {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"type": "message", "role": "user", "content": "Rain?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Oslo"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "3 mm"},
        {"role": "assistant", "content": "Rain."},
        {"role": "assistant", "content": "Much."},
        {"role": "user", "content": "More?"},
    ]
    asked = ResponseRequest.model_validate({"input": items})
    system, user, answer, given, *others = messages_of(asked.as_chat())
    assert (system["content"], user["content"]) == ("Be brief.", "Rain?")
    assert (answer["reasoning_content"], answer["content"]) == ("Hm.", "I look.")
    assert answer["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert (given["role"], given["content"], given["name"]) == ("tool", "3 mm", "weather")
    assert [other["content"] for other in others] == ["Rain.", "Much.", "More?"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"previous_response_id": "resp_1"}, "send the whole conversation in `input`"),
        ({"background": True}, "answers are not made in the background"),
        ({"input": []}, "input is a text, or a list"),
        ({"tools": [{"type": "web_search"}]}, "only tools of type function can be called"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "an item of type 'item_reference' cannot be read"),
        ({"tool_choice": "required"}, "there are none in `tools`"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ValidationError, RejectedError), match=sentence):
        ResponseRequest.model_validate({"input": "hello"} | fields).as_chat()


def test_a_refusal_comes_in_openais_form(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="send the whole conversation") as caught:
        _respond(client, previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"
