# SPDX-License-Identifier: MIT
"""Answers under a JSON schema, streamed from two real workers: whatever nonsense the model writes, it is valid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Literal

import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from native import Vocabulary
from tests.coordinator.caravan_command import DEMO_MODEL
from tests.coordinator.http.conftest import MODEL
from tests.json_schemas.by_hand import BY_HAND, Schema
from tests.json_schemas.generated import generated

_SCHEMAS = [*BY_HAND, *(generated(seed) for seed in range(200 - len(BY_HAND)))]
_EVERY_DAY = [3, 14, 21, 40, 60, 66, 88, 99, 107, 121, 130, 140, 163]
_ASK = "Tell me a story about a llama and a lantern."


@cache
def _towards_an_end() -> list[tuple[int, float]]:
    """A bias for what closes strings, lists, objects and parts of addresses: the model knows nothing of JSON, and would
    go on for long."""
    with Vocabulary.load(DEMO_MODEL) as vocabulary:
        pieces = {vocabulary.piece(token): token for token in range(vocabulary.n_tokens)}
    return [(pieces[text], 6.0) for text in (b'"', b"}", b"]", b"@", b".")]


def _written(raw: httpx.Client, schema: Schema, seed: int) -> str:
    """A whole streamed answer: by OpenAI's field in a chat, or by llama-server's in a completion."""
    fields: dict[str, Any] = {"stream": True, "seed": seed, "temperature": 1.6, "top_k": 0, "min_p": 0, "top_p": 1}
    fields |= {"max_tokens": 1200, "logit_bias": _towards_an_end()}
    if seed % 2:
        path = "/v1/completions"
        fields |= {"prompt": "Once", "json_schema": schema}
    else:
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        path = "/v1/chat/completions"
        fields |= {"messages": [{"role": "user", "content": _ASK}], "response_format": form}
    text, finish_reason = "", None
    for choice in _choices(raw, path, fields):
        text += choice["text"] if "text" in choice else choice["delta"].get("content", "")
        finish_reason = choice["finish_reason"]
    assert finish_reason == "stop", f"{text!r} for {schema}"
    return text


def _choices(raw: httpx.Client, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with raw.stream("POST", path, json=body, timeout=120) as answer:
        if answer.status_code != 200:
            raise AssertionError(f"{answer.read().decode()} for {body}")
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                told = json.loads(line[len("data: ") :])
                assert "error" not in told, f"{told} for {body}"
                yield told["choices"][0]


def _check(raw: httpx.Client, number: int) -> None:
    schema = _SCHEMAS[number]
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    text = _written(raw, schema, number)
    kind(schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(text))


def test_what_is_streamed_is_valid_by_the_schema(raw: httpx.Client) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: _check(raw, number), _EVERY_DAY))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_schemas_of_growing_nastiness_are_kept(raw: httpx.Client) -> None:
    assert len(_SCHEMAS) == 200
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: _check(raw, number), range(200)))


class _Llama(BaseModel):
    name: str = Field(max_length=10)
    mood: Literal["calm", "proud"]
    age: int | None


class _Caravan(BaseModel):
    llamas: list[_Llama] = Field(min_length=1, max_length=2)
    miles: float = Field(ge=0, le=100)


@pytest.mark.parametrize("seed", [1, 2])
def test_openais_client_parses_into_a_pydantic_model(client: openai.OpenAI, seed: int) -> None:
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": _ASK}],
        response_format=_Caravan,
        seed=seed,
        temperature=1.5,
        extra_body={"logit_bias": _towards_an_end()},
    )
    caravan = answer.choices[0].message.parsed
    assert isinstance(caravan, _Caravan)
    assert caravan.llamas[0].mood in ("calm", "proud")


@pytest.mark.parametrize("fields", [{"response_format": {"type": "json_object"}}, {"json_schema": {}}])
def test_a_json_object_is_any_object(raw: httpx.Client, fields: dict[str, object]) -> None:
    body = {"messages": [{"role": "user", "content": _ASK}], "logit_bias": _towards_an_end(), "max_tokens": 500}
    (choice,) = raw.post("/v1/chat/completions", json=body | fields | {"seed": 4}).json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert isinstance(json.loads(choice["message"]["content"]), dict)


def test_max_tokens_cuts_it_and_says_so(client: openai.OpenAI) -> None:
    schema: dict[str, object] = {"type": "array", "items": {"type": "integer"}, "minItems": 50}
    answer = client.completions.create(model=MODEL, prompt="Once", max_tokens=9, extra_body={"json_schema": schema})
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].text.startswith("[")
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model=MODEL, messages=[{"role": "user", "content": _ASK}], response_format=_Caravan, max_tokens=3
        )


def test_a_schema_that_cannot_be_kept_is_refused_by_its_place(client: openai.OpenAI) -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": _ASK}],
            response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
        )
    assert caught.value.code == "invalid_json_schema"
    assert "at #/properties/tags: `uniqueItems` can be kept only" in caught.value.message
