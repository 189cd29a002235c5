# SPDX-License-Identifier: MIT
"""Embeddings of a model in one, two and three stages are llama.cpp's own, bit for bit: those of models that make
nothing else, and of chat models, pooled in every way."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from native import (
    Batch,
    Context,
    ContextParams,
    CrossingTensor,
    FlashAttention,
    Pooling,
    UnsupportedModelError,
    check_embeds,
    read_layout,
)
from tests.conformance.split_check import Stage, open_line
from tests.model_kinds import ENCODERS, RERANKERS
from tests.models import write_model
from tests.plain_llama import Vectors, plain_embeddings

_PARAMS = ContextParams(256, n_batch=64, n_ubatch=64, flash_attention=FlashAttention.OFF, n_threads=1)
_TOKENS = np.random.default_rng(3).integers(0, 96, 60).tolist()
# Of an encoder several inputs go in a batch, of a chat model one.
_TOGETHER = [[_TOKENS[:30], _TOKENS[30:37], _TOKENS[37:60]], [_TOKENS[5:6]]]
_APART = [[_TOKENS[:30]], [_TOKENS[30:37]]]
_EMBEDDING = [pooling for pooling in Pooling if pooling is not Pooling.RANK]


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_split_encoder_gives_the_embeddings_of_the_whole(kind: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", kind)
    n_layer = read_layout(model).n_layer
    for pooling in _EMBEDDING:
        for cuts in ((), (1,), (1, n_layer - 1)):
            _check(model, pooling, cuts, _TOGETHER)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3", "mamba", "granitehybrid", "lfm2"])
def test_a_split_chat_model_gives_the_embeddings_of_the_whole(kind: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", kind)
    n_layer = read_layout(model).n_layer
    for pooling in _EMBEDDING:
        for cuts in ((), (2,), (1, n_layer - 1)):
            _check(model, pooling, cuts, _APART)


@pytest.mark.parametrize("kind", RERANKERS)
def test_a_split_reranker_gives_the_ranks_of_the_whole(kind: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", kind)
    layout = read_layout(model)
    assert layout.default_pooling is Pooling.RANK
    for cuts in ((), (1,), (1, layout.n_layer - 1)):
        _check(model, Pooling.RANK, cuts, _TOGETHER if layout.is_encoder else _APART)


def test_a_model_without_a_head_ranks_nothing(tmp_path: Path) -> None:
    layout = read_layout(write_model(tmp_path / "model.gguf", "bert"))
    with pytest.raises(UnsupportedModelError, match="is no reranker"):
        check_embeds(layout, Pooling.RANK)


def test_embeddings_leave_no_trace_in_what_is_generated(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", "llama")
    with open_line(model, (2,), _params(Pooling.LAST)) as stages, open_line(model, (2,), _PARAMS) as others:
        _embed(stages, [_TOKENS[:20]])
        assert np.array_equal(_logits(stages, _TOKENS[20:30]), _logits(others, _TOKENS[20:30]))
        with pytest.raises(ValueError, match="no embedding"):
            stages[-1][1].embeddings(9, 0)


def _check(model: Path, pooling: Pooling, cuts: Sequence[int], batches: Sequence[Sequence[Sequence[int]]]) -> None:
    params = _params(pooling)
    expected = plain_embeddings(model, params, batches)
    with open_line(model, cuts, params) as stages:
        found = [vector for inputs in batches for vector in _embed(stages, inputs)]
    for one, other in zip(found, expected, strict=True):
        assert one.any()
        assert np.array_equal(one, other), f"{pooling.name}, cut at {cuts}"


def _params(pooling: Pooling) -> ContextParams:
    return replace(_PARAMS, pooling=pooling)


def _embed(stages: Sequence[Stage], inputs: Sequence[Sequence[int]]) -> list[Vectors]:
    last = _run(stages, inputs, embeds=True)
    ends = np.cumsum([len(tokens) for tokens in inputs])
    if last.params.pooling is not Pooling.NONE:
        return [last.embeddings(int(end) - 1, seq_id).copy() for seq_id, end in enumerate(ends)]
    rows = [last.embeddings(row, 0).copy() for row in range(ends[-1])]
    return [np.stack(rows[end - len(tokens) : end]) for tokens, end in zip(inputs, ends, strict=True)]


def _run(stages: Sequence[Stage], inputs: Sequence[Sequence[int]], *, embeds: bool) -> Context:
    """One batch with a sequence for each input, in caches that are empty; the last stage's context."""
    tokens = np.concatenate(inputs).astype(np.int32)
    positions = np.concatenate([np.arange(len(each)) for each in inputs]).astype(np.int32)
    seq_ids = np.concatenate([np.full(len(each), seq_id) for seq_id, each in enumerate(inputs)]).astype(np.int32)
    batch = Batch(tokens, positions, seq_ids, np.array([len(tokens) - 1], np.int32), embeds=embeds)
    crossing: list[CrossingTensor] = []
    for _, context in stages:
        context.kv_clear()
        crossing = context.step(batch, crossing)
    return stages[-1][1]


def _logits(stages: Sequence[Stage], tokens: Sequence[int]) -> Vectors:
    return _run(stages, [tokens], embeds=False).logits(len(tokens) - 1).copy()
