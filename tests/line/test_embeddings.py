# SPDX-License-Identifier: MIT
"""Embeddings over lines of real workers: llama.cpp's own to the bit, however many workers there are, and when one of
them dies."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from coordinator import InputTooLongError, NotMadeForError, PlanError, Pooling, SamplingParams
from native import ContextParams, FlashAttention, normalised
from tests.line.conftest import StartWorker, open_mesh
from tests.line.processes import WorkerProcess
from tests.models import write_model
from tests.plain_llama import plain_embeddings

_TEXTS = ("the rain", "another one, rather longer than the first of them", "a")
_N_CTX = 512
_N_BATCH = 64


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with words."""
    return write_model(tmp_path_factory.mktemp("models") / "bert.gguf", "bert", with_text=True)


@pytest.mark.parametrize(
    ("n_stages", "pooling"), [(1, Pooling.MEAN), (2, None), (3, Pooling.LAST), (2, Pooling.NONE), (3, Pooling.MEAN)]
)
def test_an_encoder_over_workers_gives_llama_cpps_own_vectors(
    workers: list[WorkerProcess], encoder: Path, n_stages: int, pooling: Pooling | None
) -> None:
    with open_mesh(workers[:n_stages], encoder, pooling=pooling) as mesh:
        assert len(mesh.plan.stages) == n_stages
        assert mesh.plan.demand.kv_bytes == 0
        assert mesh.pooling is (pooling or Pooling.CLS)  # as its file says
        tokens = mesh.admit_inputs(_TEXTS).inputs
        embeddings = mesh.embed(_TEXTS, norm=-1)
        params = _params(mesh.pooling, n_batch=_N_BATCH)
        for vector, expected in zip(embeddings.vectors, plain_embeddings(encoder, params, [tokens]), strict=True):
            assert np.array_equal(vector, expected)
        assert embeddings.prompt_tokens == sum(map(len, tokens))


@pytest.mark.parametrize(("n_stages", "pooling"), [(3, None), (2, Pooling.MEAN), (2, Pooling.NONE)])
def test_a_chat_model_writes_and_embeds_on_one_line(
    workers: list[WorkerProcess], demo_path: Path, n_stages: int, pooling: Pooling | None
) -> None:
    greedy = SamplingParams(temperature=0)
    with open_mesh(workers[:n_stages], "demo", embeddings=True, pooling=pooling) as mesh:
        before = mesh.generate("Once upon a time", max_tokens=20, sampling=greedy).wait().text
        embeddings = mesh.embed(_TEXTS)
        params = _params(pooling or Pooling.LAST, n_batch=_N_BATCH)
        expected = plain_embeddings(demo_path, params, [[tokens] for tokens in mesh.admit_inputs(_TEXTS).inputs])
        for vector, plain in zip(embeddings.vectors, expected, strict=True):
            assert np.array_equal(vector, plain if pooling is Pooling.NONE else normalised(plain))
        assert mesh.generate("Once upon a time", max_tokens=20, sampling=greedy).wait().text == before


def test_what_a_mesh_was_not_made_for_is_refused_with_what_to_do(workers: list[WorkerProcess], encoder: Path) -> None:
    with open_mesh(workers[:1], encoder, ubatch=32) as mesh:
        with pytest.raises(NotMadeForError, match="makes embeddings and no text"):
            mesh.chat([{"role": "user", "content": "hello"}])
        with pytest.raises(NotMadeForError, match="v1/embeddings"):
            mesh.generate("hello")
        with pytest.raises(InputTooLongError, match=r"input 1 has 33 tokens and at most 32 .* --ubatch"):
            mesh.embed([[5] * 32, [5] * 33])
        assert mesh.embed([[5] * 32]).vectors[0].shape == (64,)
    with open_mesh(workers[:1]) as mesh, pytest.raises(NotMadeForError, match="--embeddings"):
        mesh.embed("hello")
    with pytest.raises(PlanError, match="made for texts of 512 tokens, not 600"):
        open_mesh(workers[:1], encoder, context=600)


def test_inputs_are_computed_again_where_a_worker_dies(start_worker: StartWorker, encoder: Path) -> None:
    line = [start_worker(name) for name in ("attic", "cellar", "desk")]
    texts = [f"{_TEXTS[number % 3]} {number}" for number in range(3000)]
    with open_mesh(line[:2], encoder, context=_N_CTX) as mesh:
        expected = mesh.embed(texts[:3])
    with open_mesh(line, encoder, context=_N_CTX, max_stages=2) as mesh:
        victim = next(worker for worker in line if worker.name == mesh.plan.stages[0].worker)
        killing = threading.Timer(0.1, victim.kill)
        killing.start()
        embeddings = mesh.embed(texts)
        killing.join()
        assert len(mesh.recovered) == 1
        assert len(embeddings.vectors) == 3000
        for vector, plain in zip(embeddings.vectors, expected.vectors, strict=False):
            assert np.allclose(vector, plain, atol=1e-6)  # it had other company in its frame
        assert (mesh.n_running, mesh.n_waiting) == (0, 0)


def _params(pooling: Pooling | None, *, n_batch: int) -> ContextParams:
    return ContextParams(_N_CTX, 4, n_batch, n_batch, flash_attention=FlashAttention.OFF, n_threads=1, pooling=pooling)
