# SPDX-License-Identifier: MIT
"""OpenAI's own client with many requests at once, for threads and for asyncio, and requests that it calls off."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.coordinator.caravan_command import wait_until
from tests.coordinator.http.conftest import MODEL, PARALLEL, QUEUE

_ENDLESS: dict[str, Any] = {"extra_body": {"grammar": 'root ::= "ab" root'}, "max_tokens": 1500}
"""Goes on for seconds: the grammar never lets it end."""


def _fields(ask: str = "Tell me of a llama.", **fields: object) -> dict[str, Any]:
    messages = [{"role": "user", "content": ask}]
    return {"model": MODEL, "messages": messages, "max_tokens": 12, "temperature": 0.0, **fields}


def _is_idle(raw: httpx.Client) -> bool:
    health = raw.get("/health").json()
    return bool(health["n_running"] == health["n_waiting"] == 0)


# ---- asyncio ----


async def test_a_chat_is_answered(async_client: openai.AsyncOpenAI, client: openai.OpenAI) -> None:
    create: Any = async_client.chat.completions.create
    blocking: Any = client.chat.completions.create
    answer = await create(**_fields())
    assert answer.choices[0].message.content == blocking(**_fields()).choices[0].message.content


async def test_a_chat_is_streamed(async_client: openai.AsyncOpenAI) -> None:
    create: Any = async_client.chat.completions.create
    chunks = [chunk async for chunk in await create(**_fields(stream=True, stream_options={"include_usage": True}))]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == (await create(**_fields())).choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 12


async def test_a_completion_is_streamed(async_client: openai.AsyncOpenAI) -> None:
    create: Any = async_client.completions.create
    fields = {"model": MODEL, "prompt": "Once", "max_tokens": 9, "temperature": 0}
    text = "".join([chunk.choices[0].text async for chunk in await create(**fields, stream=True)])
    assert text == (await create(**fields)).choices[0].text


class Age(BaseModel):
    years: int


async def test_a_pydantic_model_comes_back_parsed(async_client: openai.AsyncOpenAI) -> None:
    parse: Any = async_client.chat.completions.parse
    answer = await parse(**_fields(max_tokens=200), response_format=Age)
    assert isinstance(answer.choices[0].message.parsed, Age)


async def test_models_are_listed(async_client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in async_client.models.list()] == [MODEL]


async def test_an_error_is_raised(async_client: openai.AsyncOpenAI) -> None:
    create: Any = async_client.chat.completions.create
    with pytest.raises(openai.BadRequestError, match="n"):
        await create(**_fields(n=0))


# ---- many ----


async def test_more_requests_than_slots_are_all_answered(async_client: openai.AsyncOpenAI) -> None:
    create: Any = async_client.chat.completions.create
    asks = [f"Tell me of {number} llamas." for number in range(PARALLEL + QUEUE)]
    answers = await asyncio.gather(*(create(**_fields(ask)) for ask in asks))
    assert all(answer.usage.completion_tokens == 12 for answer in answers)
    assert len({answer.id for answer in answers}) == len(asks)


async def test_streams_at_once_do_not_mix(async_client: openai.AsyncOpenAI) -> None:
    create: Any = async_client.chat.completions.create

    async def streamed(word: str) -> tuple[str, str]:
        fields = _fields(extra_body={"grammar": f'root ::= "{word} "+'}, stream=True, max_tokens=30)
        return word, "".join([c.choices[0].delta.content or "" async for c in await create(**fields)])

    for word, text in await asyncio.gather(*map(streamed, ("ana", "bo", "cid", "dara", "eve", "fay"))):
        assert set(text.split()) - {word[:end] for end in range(len(word))} == {word}


def test_threads_share_a_client(client: openai.OpenAI) -> None:
    create: Any = client.chat.completions.create
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: create(**_fields(n=1)), range(8)))
    assert len({answer.choices[0].message.content for answer in answers}) <= 2  # batches differ, at a near tie


def test_beyond_the_queue_it_is_a_rate_limit(client: openai.OpenAI, raw: httpx.Client) -> None:
    create: Any = client.chat.completions.create
    with (
        create(**_fields(**_ENDLESS, n=PARALLEL, stream=True)),
        pytest.raises(openai.RateLimitError) as raised,
    ):
        create(**_fields(n=QUEUE + 1))
    assert raised.value.code == "overloaded"
    wait_until(lambda: _is_idle(raw))


# ---- called off ----


def test_a_stream_that_is_closed_frees_its_slot(client: openai.OpenAI, raw: httpx.Client) -> None:
    create: Any = client.chat.completions.create
    stream = create(**_fields(**_ENDLESS, stream=True))
    next(iter(stream))
    assert not _is_idle(raw)
    stream.close()
    wait_until(lambda: _is_idle(raw), timeout_s=5)


async def test_a_task_that_is_cancelled_frees_its_slot(async_client: openai.AsyncOpenAI, raw: httpx.Client) -> None:
    create: Any = async_client.chat.completions.create
    asking = asyncio.ensure_future(create(**_fields(**_ENDLESS)))
    await asyncio.to_thread(wait_until, lambda: not _is_idle(raw))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.to_thread(wait_until, lambda: _is_idle(raw), 5)


def test_a_client_that_waits_no_longer_frees_its_slot(client: openai.OpenAI, raw: httpx.Client) -> None:
    create: Any = client.chat.completions.create
    with pytest.raises(openai.APITimeoutError):
        create(**_fields(**_ENDLESS), timeout=0.3)
    wait_until(lambda: _is_idle(raw), timeout_s=5)
