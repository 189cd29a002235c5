# SPDX-License-Identifier: MIT
"""OpenAI's own client, field by field: what it asks for is what it gets, or an error that it understands.

With `test_openai_client`, `test_openai_at_once`, `test_openai_tools`, `test_openai_embeddings` and
`test_openai_responses` one suite, over one server with two real workers.
"""

from __future__ import annotations

import enum
import json
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from tests.coordinator.http.conftest import MODEL, Server
from tests.ports import nobodys_address

_ASK = "Tell me a story about a llama and a lantern."
_MESSAGES = [{"role": "user", "content": _ASK}]


def _chat(client: openai.OpenAI, **fields: object) -> Any:  # noqa: ANN401 -- an answer or a stream of chunks
    create: Any = client.chat.completions.create
    return create(**({"model": MODEL, "messages": _MESSAGES, "max_tokens": 24, "temperature": 0.0} | fields))


def _text(client: openai.OpenAI, **fields: object) -> str:
    return str(_chat(client, **fields).choices[0].message.content)


# ---- messages ----


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be brief."}, *_MESSAGES],
        [{"role": "developer", "content": "Be brief."}, *_MESSAGES],
        [*_MESSAGES, {"role": "assistant", "content": "Once there was one."}, {"role": "user", "content": "Go on."}],
        [{"role": "user", "content": [{"type": "text", "text": _ASK}]}],
        [{"role": "user", "content": "Erzähl von 🦙, von 媽媽 und von «Пастух»."}],
        [{"role": "user", "content": "", "name": "nobody"}],
    ],
    ids=["system", "developer", "a conversation", "parts", "many scripts", "an empty one"],
)
def test_any_conversation_is_answered(client: openai.OpenAI, messages: object) -> None:
    answer = _chat(client, messages=messages)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens <= 24


def test_a_developer_s_message_is_a_system_s(client: openai.OpenAI) -> None:
    one, other = ([{"role": role, "content": "Be brief."}, *_MESSAGES] for role in ("system", "developer"))
    assert _text(client, messages=one) == _text(client, messages=other)


def test_parts_of_a_message_are_read_as_one_text(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": _ASK[:9]}, {"type": "text", "text": _ASK[9:]}]
    assert _text(client, messages=[{"role": "user", "content": parts}]) == _text(client)


# ---- how much, and how ----


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("limit", [1, 7])
def test_no_more_tokens_come_than_asked_for(client: openai.OpenAI, field: str, limit: int) -> None:
    answer = _chat(client, **({"max_tokens": None} | {field: limit}))
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (limit, "length")


@pytest.mark.parametrize("fields", [{"top_p": 0.0}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1.0}}])
def test_a_distribution_cut_to_its_likeliest_token_leaves_no_choice(
    client: openai.OpenAI, fields: dict[str, object]
) -> None:
    assert _text(client, temperature=1.5, **fields) == _text(client)


@pytest.mark.parametrize(
    "fields", [{"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"extra_body": {"repeat_penalty": 1.9}}]
)
def test_a_penalty_changes_what_repeats(client: openai.OpenAI, fields: dict[str, object]) -> None:
    assert _text(client, max_tokens=80, **fields) != _text(client, max_tokens=80)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_so_many_answers_come_as_asked_for(client: openai.OpenAI, n: int, stream: bool) -> None:
    answer = _chat(client, n=n, stream=stream, max_tokens=4)
    choices = [choice for chunk in answer for choice in chunk.choices] if stream else answer.choices
    assert {choice.index for choice in choices} == set(range(n))
    assert sum(choice.finish_reason is not None for choice in choices) == n


@pytest.mark.parametrize("stop", [" llama", [" llama", "~"]])
def test_a_chat_ends_at_a_stop_string(client: openai.OpenAI, stop: object) -> None:
    answer = _chat(client, stop=stop, max_tokens=200)
    assert answer.choices[0].finish_reason == "stop"
    assert " llama" not in answer.choices[0].message.content


@pytest.mark.parametrize("prompt", ["a llama", ["a llama", "a lamp"], [5, 6, 7], [[5, 6], [7, 8, 9]]])
@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_takes_every_form_of_a_prompt(client: openai.OpenAI, prompt: Any, stream: bool) -> None:  # noqa: ANN401
    create: Any = client.completions.create
    answer = create(model=MODEL, prompt=prompt, max_tokens=3, temperature=0, stream=stream)
    choices = [choice for chunk in answer for choice in chunk.choices] if stream else answer.choices
    n_prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    assert {choice.index for choice in choices} == set(range(n_prompts))


# ---- the client's own ways of streaming ----


def test_the_client_puts_a_stream_together_itself(client: openai.OpenAI) -> None:
    stream: Any = client.chat.completions.stream
    with stream(model=MODEL, messages=_MESSAGES, temperature=0.0) as events:
        texts = [event.delta for event in events if event.type == "content.delta"]
        final = events.get_final_completion()
    assert final.choices[0].message.content == "".join(texts) == _text(client, max_tokens=None)


def test_raw_answers_have_their_headers(client: openai.OpenAI) -> None:
    create: Any = client.chat.completions.with_raw_response.create
    raw = create(model=MODEL, messages=_MESSAGES, max_tokens=4)
    assert raw.headers["content-type"] == "application/json"
    assert raw.parse().choices[0].message.content
    streaming: Any = client.chat.completions.with_streaming_response.create
    with streaming(model=MODEL, messages=_MESSAGES, max_tokens=4, stream=True) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert list(response.iter_lines())[-2] == "data: [DONE]"


# ---- log probabilities ----


@pytest.mark.parametrize("n_top", [0, 1, 20])
@pytest.mark.parametrize("stream", [False, True])
def test_as_many_rivals_are_told_as_asked_for(client: openai.OpenAI, n_top: int, stream: bool) -> None:
    answer = _chat(client, logprobs=True, top_logprobs=n_top, max_tokens=5, stream=stream)
    choices = [choice for chunk in answer for choice in chunk.choices] if stream else answer.choices
    entries = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
    assert len(entries) == 5
    for entry in entries:
        assert len(entry.top_logprobs) == n_top
        assert entry.logprob <= 0
        assert bytes(entry.bytes).decode() == entry.token
        assert [top.logprob for top in entry.top_logprobs] == sorted(
            (t.logprob for t in entry.top_logprobs), reverse=True
        )


# ---- JSON ----


class Colour(str, enum.Enum):
    BROWN = "brown"
    WHITE = "white"


class Llama(BaseModel):
    age: int = Field(ge=0, le=30)
    colour: Colour


class Caravan(BaseModel):
    leader: Llama
    followers: list[Llama] = Field(min_length=1, max_length=2)


class Load(BaseModel):
    kind: Literal["lantern", "wool"]
    kilograms: float | None


class Answer(BaseModel):
    is_llama: bool
    loads: list[Load] = Field(max_length=2)


@pytest.mark.parametrize("kind", [Llama, Caravan, Load, Answer])
@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_a_pydantic_model_comes_back_parsed(client: openai.OpenAI, kind: type[BaseModel], temperature: float) -> None:
    parse: Any = client.chat.completions.parse
    answer = parse(model=MODEL, messages=_MESSAGES, response_format=kind, temperature=temperature, seed=3)
    assert isinstance(answer.choices[0].message.parsed, kind)
    assert answer.choices[0].finish_reason == "stop"


def test_a_pydantic_model_is_parsed_from_a_stream(client: openai.OpenAI) -> None:
    stream: Any = client.chat.completions.stream
    with stream(model=MODEL, messages=_MESSAGES, response_format=Caravan, temperature=0.0) as events:
        kinds = {event.type for event in events}
        parsed = events.get_final_completion().choices[0].message.parsed
    assert isinstance(parsed, Caravan)
    assert "content.done" in kinds


def test_any_json_object_can_be_asked_for(client: openai.OpenAI) -> None:
    answer = _chat(client, response_format={"type": "json_object"}, max_tokens=400)
    text = answer.choices[0].message.content
    assert text.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


# ---- errors ----

_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "nobody", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [_IMAGE]}]}, "messages.0.content"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [""]}, "stop.0"),
        ({"logit_bias": {"llama": 3e9}}, "logit_bias"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}}, None),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"seed": 1 << 70}, "seed"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_is_a_bad_request_that_names_the_field(
    client: openai.OpenAI, fields: dict[str, object], param: str | None, stream: bool
) -> None:
    fields = fields if "stream_options" in fields else fields | {"stream": stream}
    with pytest.raises(openai.BadRequestError) as raised:
        _chat(client, **fields)
    assert raised.value.param == param
    assert raised.value.type == "invalid_request_error"
    assert len(raised.value.message) > 20


def test_what_is_not_there_is_not_found(client: openai.OpenAI) -> None:
    for ask in (client.files.list, client.batches.list, lambda: client.moderations.create(input="a")):
        with pytest.raises(openai.NotFoundError):
            ask()


def test_time_that_is_over_is_told_apart(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        _chat(client, max_tokens=1000, extra_body={"timeout": 0.001})
    assert (raised.value.status_code, raised.value.code) == (504, "timeout")
    with pytest.raises(openai.APITimeoutError):
        _chat(client, max_tokens=1000, timeout=0.001)


def test_nobody_there_is_a_connection_error() -> None:
    with nobodys_address() as address:
        client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0)
        with client, pytest.raises(openai.APIConnectionError):
            client.models.list()


def test_the_path_without_v1_is_the_same(server: Server, client: openai.OpenAI) -> None:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as other:
        assert _text(other) == _text(client)
        assert other.models.list().data[0].id == MODEL
