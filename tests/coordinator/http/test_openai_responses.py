# SPDX-License-Identifier: MIT
"""The Responses API as OpenAI documents it, by its own client."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from tests.coordinator.http.conftest import MODEL

FEATURE = "responses"

_ASK = "Tell me a story about a llama."


def _respond(client: openai.OpenAI, **fields: object) -> Any:  # noqa: ANN401 -- an answer or a stream of events
    create: Any = client.responses.create
    return create(**({"model": MODEL, "input": _ASK, "temperature": 0.0, "max_output_tokens": 24} | fields))


@pytest.mark.parametrize(
    "given",
    [
        _ASK,
        [{"role": "user", "content": _ASK}],
        [{"role": "user", "content": [{"type": "input_text", "text": _ASK}]}],
    ],
    ids=["text", "messages", "parts"],
)
def test_every_form_of_input_says_the_same(client: openai.OpenAI, given: object) -> None:
    answer = _respond(client, input=given)
    assert answer.object == "response"
    assert answer.id.startswith("resp_")
    assert answer.output_text == _respond(client).output_text != ""
    assert answer.usage.output_tokens <= 24
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_it_is_what_a_chat_says(client: openai.OpenAI) -> None:
    create: Any = client.chat.completions.create
    chat = create(model=MODEL, messages=[{"role": "user", "content": _ASK}], temperature=0.0, max_tokens=24)
    assert _respond(client).output_text == chat.choices[0].message.content


def test_instructions_are_the_system_s_message(client: openai.OpenAI) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": _ASK}]
    assert _respond(client, instructions="Be brief.").output_text == _respond(client, input=messages).output_text


def test_too_few_tokens_make_it_incomplete(client: openai.OpenAI) -> None:
    answer = _respond(client, max_output_tokens=16)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_a_stream_tells_its_events_in_order(client: openai.OpenAI) -> None:
    events = list(_respond(client, stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    order = ["response.output_item.added", "response.content_part.added", "response.output_text.delta"]
    order += ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    assert [kinds.index(kind) for kind in order] == sorted(kinds.index(kind) for kind in order)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text == _respond(client).output_text
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(numbers)


class Llama(BaseModel):
    age: int = Field(ge=0, le=30)


def test_a_pydantic_model_comes_back_parsed(client: openai.OpenAI) -> None:
    parse: Any = client.responses.parse
    answer = parse(model=MODEL, input=_ASK, text_format=Llama, temperature=0.0, max_output_tokens=100)
    assert isinstance(answer.output_parsed, Llama)


@pytest.mark.parametrize("fields", [{"input": []}, {"input": 5}, {"max_output_tokens": 0}, {"temperature": -1}])
def test_what_cannot_be_is_a_bad_request(client: openai.OpenAI, fields: dict[str, object]) -> None:
    with pytest.raises(openai.BadRequestError):
        _respond(client, **fields)


async def test_asyncio_has_the_same(async_client: openai.AsyncOpenAI, client: openai.OpenAI) -> None:
    create: Any = async_client.responses.create
    answer = await create(model=MODEL, input=_ASK, temperature=0.0, max_output_tokens=24)
    assert answer.output_text == _respond(client).output_text
