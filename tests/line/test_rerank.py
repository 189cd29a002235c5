# SPDX-License-Identifier: MIT
"""Documents ranked over lines of real workers: llama.cpp's own scores to the bit, in the layouts that models have."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator import (
    InputTooLongError,
    InvalidRequestError,
    NotMadeForError,
    Pooling,
    SamplingParams,
    UnsupportedModelError,
)
from native import ContextParams, FlashAttention
from tests.line.conftest import open_mesh
from tests.line.processes import WorkerProcess
from tests.models import write_model
from tests.plain_llama import plain_embeddings

_QUERY = "the rain"
_DOCUMENTS = ("it is wet", "another one", "a")  # which an encoder computes together, all in a frame
_BOS, _EOS, _SEPARATOR = 1, 2, 3


@pytest.fixture(scope="module", params=["bert-ranking", "jina-bert-v2-ranking", "qwen3-ranking"])
def reranker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with words."""
    return write_model(tmp_path_factory.mktemp("models") / f"{request.param}.gguf", request.param, with_text=True)


def test_a_reranker_over_workers_gives_llama_cpps_own_scores(workers: list[WorkerProcess], reranker: Path) -> None:
    with open_mesh(workers[:2], reranker) as mesh:
        assert len(mesh.plan.stages) == 2
        assert mesh.pooling is Pooling.RANK  # as its file says
        ranking = mesh.rerank(_QUERY, _DOCUMENTS)
        inputs = mesh.admit_documents(_QUERY, _DOCUMENTS).inputs
        together = [inputs] if not mesh.writes else [[each] for each in inputs]
        params = ContextParams(512, 3, 256, 256, flash_attention=FlashAttention.OFF, n_threads=1, pooling=Pooling.RANK)
        expected = [float(vector[0]) for vector in plain_embeddings(reranker, params, together)]
        assert list(ranking.scores) == expected
        assert len(set(expected)) == 3
        assert ranking.best_first == sorted(range(3), key=lambda index: -expected[index])
        assert ranking.prompt_tokens == sum(map(len, inputs))
        with pytest.raises(NotMadeForError, match="ask POST /v1/rerank"):
            mesh.embed("a text")
        with pytest.raises(InvalidRequestError, match="at least one input"):
            mesh.rerank(_QUERY, [])
        if mesh.writes:
            assert mesh.generate(_QUERY, max_tokens=3, sampling=SamplingParams(temperature=0)).wait().text
        else:
            with pytest.raises(InputTooLongError, match="input 1 has"):
                mesh.rerank(_QUERY, ["a", "rain " * 200])


def test_query_and_document_are_laid_out_as_llama_server_does_it(workers: list[WorkerProcess], reranker: Path) -> None:
    with open_mesh(workers[:1], reranker) as mesh:
        query, document = (mesh.tokenize(text, parse_special=False) for text in (_QUERY, _DOCUMENTS[0]))
        (found,) = mesh.admit_documents(_QUERY, _DOCUMENTS[:1]).inputs
        if "qwen3" in reranker.name:
            assert found == mesh.tokenize(f"<s>Query: {_QUERY}\nDocument: {_DOCUMENTS[0]}</s>")
        elif "jina" in reranker.name:
            assert found == (_BOS, *query, *document)
        else:
            assert found == (_BOS, *query, _EOS, _SEPARATOR, *document, _EOS)
        # What a document says is no place for another.
        (odd,) = mesh.admit_documents("{document}", ["{query}"]).inputs
        assert b"".join(mesh.pieces(odd)).count(b"{") == 2


def test_who_is_no_reranker_ranks_nothing(workers: list[WorkerProcess], tmp_path: Path) -> None:
    encoder = write_model(tmp_path / "bert.gguf", "bert", with_text=True)
    with open_mesh(workers[:1], encoder) as mesh, pytest.raises(NotMadeForError, match="that takes a reranker"):
        mesh.rerank(_QUERY, _DOCUMENTS)
    with (
        pytest.raises(UnsupportedModelError, match="is no reranker"),
        open_mesh(workers[:1], encoder, pooling=Pooling.RANK),
    ):
        pass
