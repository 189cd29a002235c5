# SPDX-License-Identifier: MIT
"""Documents ranked over HTTP, by a real reranker over two workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from native import ContextParams, FlashAttention, Pooling, Vocabulary
from tests.coordinator.caravan_command import ALONE, served_url, started
from tests.models import write_model
from tests.plain_llama import plain_embeddings

_QUERY = "the rain"
_TEXTS = ["it is wet", "another one", "a"]


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With words, EOS behind query and document, and a separator between them."""
    return write_model(tmp_path_factory.mktemp("models") / "reranker.gguf", "bert-ranking", with_text=True)


@pytest.fixture(scope="module")
def ranker(reranker: Path) -> Iterator[httpx.Client]:
    """Opened for ranking by itself, as its file says."""
    command = ("serve", str(reranker), "--listen", "127.0.0.1:0", "--local", "2", "--distribution", "on", *ALONE)
    with started(*command) as process, httpx.Client(base_url=served_url(process), timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def scores(reranker: Path) -> list[float]:
    """llama.cpp's own."""
    with Vocabulary.load(reranker) as vocabulary:
        inputs = [vocabulary.query_and_document(_QUERY, text) for text in _TEXTS]
    params = ContextParams(512, 3, 512, 512, flash_attention=FlashAttention.OFF, n_threads=1, pooling=Pooling.RANK)
    return [float(vector[0]) for vector in plain_embeddings(reranker, params, [inputs])]


@pytest.fixture(scope="module")
def order(scores: list[float]) -> list[int]:
    """The best first."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking"])
def test_documents_come_by_llama_cpps_own_scores(
    ranker: httpx.Client, scores: list[float], order: list[int], path: str
) -> None:
    answer = ranker.post(path, json={"model": "reranker", "query": _QUERY, "documents": _TEXTS}).json()
    assert answer["results"] == [{"index": index, "relevance_score": scores[index]} for index in order]
    assert (answer["model"], answer["object"]) == ("reranker", "list")
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > len(_TEXTS)


@pytest.mark.parametrize(("top_n", "n"), [(None, 3), (1, 1), (3, 3), (99, 3)])
def test_so_many_of_the_best_in_either_form(
    ranker: httpx.Client, scores: list[float], order: list[int], top_n: int | None, n: int
) -> None:
    asked = {"query": _QUERY, "top_n": top_n}
    results = ranker.post("/rerank", json={**asked, "documents": _TEXTS}).json()["results"]
    assert [each["index"] for each in results] == order[:n]
    told = ranker.post("/rerank", json={**asked, "texts": _TEXTS, "return_text": True}).json()
    assert told == [{"index": index, "score": scores[index], "text": _TEXTS[index]} for index in order[:n]]
    assert "text" not in ranker.post("/rerank", json={**asked, "texts": _TEXTS}).json()[0]


@pytest.mark.parametrize(
    ("asked", "param", "told"),
    [
        ({"documents": _TEXTS}, "query", "query"),
        ({"query": 1, "documents": _TEXTS}, "query", "query"),
        ({"query": _QUERY}, "documents", "a list of at least one text"),
        ({"query": _QUERY, "documents": []}, "documents", "documents"),
        ({"query": _QUERY, "documents": [1, 2]}, "documents.0", "documents"),
        ({"query": _QUERY, "documents": 123}, "documents", "documents"),
        ({"query": _QUERY, "documents": _TEXTS, "top_n": 0}, "top_n", "top_n"),
        ({"query": _QUERY, "documents": ["a", "rain " * 600]}, None, "input 1 has"),
    ],
)
def test_what_cannot_be_ranked_is_refused_with_a_sentence(
    ranker: httpx.Client, asked: dict[str, Any], param: str | None, told: str
) -> None:
    answer = ranker.post("/v1/rerank", json=asked)
    assert answer.status_code in (400, 404), answer.text
    error = answer.json()["error"]
    assert told in error["message"]
    if param is not None:
        assert error["param"] == param


def test_a_reranker_does_nothing_else_and_says_so(ranker: httpx.Client) -> None:
    (model,) = ranker.get("/v1/models").json()["data"]
    assert model["architecture"]["output_modalities"] == ["rerank"]
    refused = ranker.post("/v1/embeddings", json={"input": "a text"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "not_supported")
    assert "POST /v1/rerank" in refused.json()["error"]["message"]
    assert ranker.post("/v1/completions", json={"prompt": "a"}).status_code == 400


def test_a_model_that_writes_ranks_nothing(raw: httpx.Client) -> None:
    refused = raw.post("/v1/rerank", json={"query": _QUERY, "documents": _TEXTS})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "not_supported")
    assert "that takes a reranker" in refused.json()["error"]["message"]
