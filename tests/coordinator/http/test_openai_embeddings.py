# SPDX-License-Identifier: MIT
"""Embeddings as OpenAI documents them, by its own client, of the chat model that is served."""

from __future__ import annotations

import math
from typing import Any

import openai
import pytest

from tests.coordinator.http.conftest import MODEL

FEATURE = "embeddings"

_TEXTS = ["a llama walks", "a lantern glows", "a llama walks"]


def _embed(client: openai.OpenAI, given: object, **fields: object) -> Any:  # noqa: ANN401 -- the client's own type
    create: Any = client.embeddings.create
    return create(model=MODEL, input=given, **fields)


@pytest.mark.parametrize("given", ["a llama", ["a llama", "a lamp"], [5, 6, 7], [[5, 6], [7, 8, 9]]])
def test_every_form_of_input_is_embedded(client: openai.OpenAI, given: Any) -> None:  # noqa: ANN401
    answer = _embed(client, given)
    n_inputs = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    assert [entry.index for entry in answer.data] == list(range(n_inputs))
    assert len({len(entry.embedding) for entry in answer.data}) == 1
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    assert answer.model == MODEL


def test_the_same_text_has_the_same_embedding_and_another_another(client: openai.OpenAI) -> None:
    first, other, again = (entry.embedding for entry in _embed(client, _TEXTS).data)
    assert first == pytest.approx(again, abs=1e-5)
    assert first != pytest.approx(other, abs=1e-2)


def test_embeddings_have_length_one(client: openai.OpenAI) -> None:
    for entry in _embed(client, _TEXTS).data:
        assert math.hypot(*entry.embedding) == pytest.approx(1.0, abs=1e-4)


def test_base64_and_numbers_are_the_same(client: openai.OpenAI) -> None:
    # Left out, the client asks for base64 and makes numbers of it.
    (unasked,) = _embed(client, "a llama").data
    (numbers,) = _embed(client, "a llama", encoding_format="float").data
    assert numbers.embedding == pytest.approx(unasked.embedding, abs=1e-6)


@pytest.mark.parametrize(
    "given", [[], [[]], {"text": "a"}, ["a", 5.5]], ids=["nothing", "no tokens", "a map", "a number"]
)
def test_what_is_no_input_is_a_bad_request(client: openai.OpenAI, given: object) -> None:
    with pytest.raises(openai.BadRequestError):
        _embed(client, given)


async def test_asyncio_has_the_same(async_client: openai.AsyncOpenAI, client: openai.OpenAI) -> None:
    create: Any = async_client.embeddings.create
    answer = await create(model=MODEL, input="a llama")
    (same,) = _embed(client, "a llama").data
    assert answer.data[0].embedding == pytest.approx(same.embedding, abs=1e-5)
