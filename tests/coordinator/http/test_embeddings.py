# SPDX-License-Identifier: MIT
"""Embeddings over HTTP, by OpenAI's own client and by hand, of a chat model that writes on the same line."""

from __future__ import annotations

import base64
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from llama_cpp import Llama

from native import ContextParams, FlashAttention, Pooling, normalised
from tests.coordinator.caravan_command import DEMO_MODEL
from tests.coordinator.http.conftest import MODEL, QUEUE, Server
from tests.plain_llama import Vectors, plain_embeddings

_TEXTS = ("A llama and a lantern.", "Once upon a time", "The well was dry for years. " * 100)


@pytest.fixture(scope="module")
def tokens() -> list[list[int]]:
    """Those of the texts, by llama-cpp-python."""
    llama = Llama(str(DEMO_MODEL), vocab_only=True, verbose=False)
    try:
        return [llama.tokenize(text.encode(), add_bos=True, special=True) for text in _TEXTS]
    finally:
        llama.close()


@pytest.fixture(scope="module")
def vectors(tokens: list[list[int]]) -> list[Vectors]:
    """llama.cpp's own, normalised; the last text is longer than what it computes at once."""
    params = ContextParams(2048, 1, 2048, 512, flash_attention=FlashAttention.OFF, n_threads=1, pooling=Pooling.LAST)
    assert 512 < len(tokens[-1]) < 2048
    return [normalised(vector) for vector in plain_embeddings(DEMO_MODEL, params, [[each] for each in tokens])]


def test_every_form_of_input_has_llama_cpps_own_vectors(
    client: openai.OpenAI, raw: httpx.Client, tokens: list[list[int]], vectors: list[Vectors]
) -> None:
    # The client asks for base64 and gives floats.
    answer = client.embeddings.create(model=MODEL, input=list(_TEXTS))
    assert [item.index for item in answer.data] == [0, 1, 2]
    for item, expected in zip(answer.data, vectors, strict=True):
        assert np.array_equal(np.array(item.embedding, np.float32), expected)
    assert answer.model == MODEL
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, tokens))
    for asked in (_TEXTS[0], tokens[0], [tokens[0]], [_TEXTS[0]]):
        body = _embed(raw, input=asked)
        assert np.array_equal(np.array(body["data"][0]["embedding"], np.float32), vectors[0])
        assert (body["object"], body["data"][0]["object"], len(body["data"])) == ("list", "embedding", 1)
    packed = _embed(raw, input=_TEXTS[1], encoding_format="base64")["data"][0]["embedding"]
    assert np.array_equal(np.frombuffer(base64.b64decode(packed), "<f4"), vectors[1])


def test_dimensions_are_the_first_ones_made_to_length_one(raw: httpx.Client, vectors: list[Vectors]) -> None:
    short = np.array(_embed(raw, input=_TEXTS[0], dimensions=8)["data"][0]["embedding"])
    assert len(short) == 8
    assert np.allclose(short, vectors[0][:8] / np.linalg.norm(vectors[0][:8]), atol=1e-6)
    assert _refused(raw, input="a", dimensions=len(vectors[0]) + 1) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, (400, "invalid_request")),
        ({"input": []}, (400, "invalid_request")),
        ({"input": ["a", ""], "encoding_format": "int8"}, (400, "invalid_request")),
        ({"input": [["a"]]}, (400, "invalid_request")),
        ({"input": [1 << 30]}, (400, "invalid_request")),
        ({"input": ["a"] * 2049}, (400, "invalid_request")),
        ({"input": "long " * 3000}, (400, "context_length_exceeded")),
    ],
)
def test_what_cannot_be_embedded_is_refused_with_a_sentence(
    raw: httpx.Client, fields: dict[str, object], told: tuple[int, str]
) -> None:
    assert _refused(raw, **fields) == told


def test_many_clients_embed_while_others_write(
    client: openai.OpenAI, raw: httpx.Client, vectors: list[Vectors]
) -> None:
    def embed(_: int) -> bool:
        found = _embed(raw, input=[*_TEXTS[:2], *_TEXTS[:2]])["data"]
        same = [np.array_equal(np.array(item["embedding"], np.float32), vectors[item["index"] % 2]) for item in found]
        return all(same)

    def write(_: int) -> str:
        completion = client.completions.create(model=MODEL, prompt=_TEXTS[1], max_tokens=40, temperature=0.0)
        return completion.choices[0].text

    alone = write(0)
    with ThreadPoolExecutor(6) as pool:
        texts, embedded = pool.map(write, range(3)), pool.map(embed, range(QUEUE - 2))
        assert all(embedded)
        assert set(texts) == {alone}


def test_a_client_that_hangs_up_leaves_no_request(server: Server, raw: httpx.Client) -> None:
    with (
        httpx.Client(base_url=server.url, timeout=httpx.Timeout(20, read=0.2)) as hasty,
        pytest.raises(httpx.ReadTimeout),
    ):
        hasty.post("/v1/embeddings", json={"input": [_TEXTS[2]] * 200})
    deadline = time.monotonic() + 60
    while raw.get("/health").json()["n_running"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _embed(raw: httpx.Client, **fields: object) -> Any:  # noqa: ANN401 -- JSON
    answer = raw.post("/v1/embeddings", json={"model": MODEL, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def _refused(raw: httpx.Client, **fields: object) -> tuple[int, str]:
    answer = raw.post("/v1/embeddings", json=fields)
    return answer.status_code, answer.json()["error"]["code"]
