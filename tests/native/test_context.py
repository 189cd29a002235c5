# SPDX-License-Identifier: MIT
"""A context's bounds, its KV operations on one model and over a line of stages, and what it says when it is full."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from native import Batch, Context, ContextParams, DecodeError, FlashAttention, LoadFailedError, Model
from tests.conformance.split_check import Logits, Stage, open_line, run_step
from tests.models import write_model

_PARAMS = ContextParams(n_ctx_seq=256, n_seq_max=4, n_batch=64, n_ubatch=32, n_threads=1)
_UNIFIED = ContextParams(n_ctx_seq=256, n_seq_max=4, n_batch=64, n_ubatch=32, n_threads=1, kv_unified=True)


def _int32(values: Sequence[int]) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    return np.array(values, np.int32)


def _batch(tokens: Sequence[int], *, start: int = 0, sequence: int = 0, rows: Sequence[int] = ()) -> Batch:
    n = len(tokens)
    return Batch(
        _int32(tokens), np.arange(start, start + n, dtype=np.int32), np.full(n, sequence, np.int32), _int32(rows)
    )


@pytest.fixture
def context(tiny: Path) -> Iterator[Context]:
    with Model.load(tiny) as model, Context(model, _PARAMS) as context:
        yield context


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        (([], [], [], []), "at least one token"),
        (([1, 2], [0], [0, 0], []), "a position and a sequence for each"),
        (([1, 2], [0, 1], [0], []), "a position and a sequence for each"),
        (([1], [0], [0], [1]), "output rows must lie within"),
        (([1], [0], [0], [-1]), "output rows must lie within"),
    ],
)
def test_a_batch_that_does_not_add_up_cannot_be_made(arrays: tuple[Sequence[int], ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Batch(*map(_int32, arrays))


@pytest.mark.parametrize(
    ("batch", "complaint"),
    [
        (_batch([1] * 65), "a batch of 65 tokens is more than n_batch = 64"),
        (_batch([1], sequence=4), r"sequence ids must lie in \[0, 4\)"),
        (_batch([1], sequence=-1), r"sequence ids must lie in \[0, 4\)"),
        (_batch([-1]), "token ids must lie in"),
        (_batch([2**31 - 1]), "token ids must lie in"),
    ],
)
def test_a_batch_out_of_bounds_computes_nothing(context: Context, batch: Batch, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        context.step(batch)
    context.step(_batch([1, 2, 3], rows=[2]))
    assert np.isfinite(context.logits(2)).all()


def test_only_rows_that_were_asked_for_have_logits(context: Context) -> None:
    context.step(_batch([1, 2, 3], rows=[1]))
    assert context.logits(1).shape == (context._model.n_vocab,)
    for row in (0, 2, 3, -5):
        with pytest.raises(ValueError, match="has no logits"):
            context.logits(row)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_ctx_seq": 0},
        {"n_batch": 0},
        {"n_seq_max": 100_000},
        {"n_seq_max": 8, "n_batch": 4},
        {"n_ctx_seq": 2**24, "n_seq_max": 256},
        {"kv_type_k": "q9_9"},
        {"n_threads": 0},
    ],
)
def test_parameters_that_cannot_be_are_refused_before_llama_cpp_sees_them(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        ContextParams(**wrong)  # type: ignore[arg-type]


def test_what_llama_cpp_cannot_make_is_told_with_its_reason(tiny: Path) -> None:
    # A quantised V cache needs flash attention.
    params = ContextParams(n_ctx_seq=256, n_seq_max=1, kv_type_v="q8_0", flash_attention=FlashAttention.OFF)
    with Model.load(tiny) as model, pytest.raises(LoadFailedError, match="V cache") as caught:
        Context(model, params)
    assert "\n" not in str(caught.value)


def _fill(context: Context, n_tokens: int, *, sequence: int = 0) -> None:
    for start in range(0, n_tokens, 64):
        context.step(_batch([7] * min(64, n_tokens - start), start=start, sequence=sequence))


def test_a_full_context_says_so_and_lives(context: Context) -> None:
    _fill(context, 256)
    with pytest.raises(DecodeError, match="no room in the KV cache for a batch of 1: use a longer context"):
        context.step(_batch([7], start=256))
    _fill(context, 10, sequence=1)
    context.kv_remove(0, 0, -1)
    _fill(context, 256)


@pytest.fixture(params=["whole", "split"])
def line(request: pytest.FixtureRequest, tiny: Path) -> Iterator[list[Stage]]:
    """The tiny model alone, and in three stages: KV operations go to every stage and mean the same."""
    with open_line(tiny, (1, 2) if request.param == "split" else (), _UNIFIED) as stages:
        yield stages


@pytest.fixture
def fresh(tiny: Path) -> Iterator[list[Stage]]:
    """Another context to compute what is expected."""
    with open_line(tiny, (), _UNIFIED) as stages:
        yield stages


_TOKENS = [(5 * i + 3) % 300 for i in range(30)]


def _run(stages: Sequence[Stage], tokens: Sequence[int], *, start: int = 0, sequence: int = 0) -> Logits:
    """Logits of the last token."""
    logits: Logits = run_step(stages, tokens, range(start, start + len(tokens)), [sequence] * len(tokens))[-1]
    return logits


def _close(a: Logits, b: Logits) -> bool:
    # Cells in another order, or positions rotated after the fact: not the same bits, the same to some digits.
    return bool(np.abs(a - b).max() < 2e-2 * np.ptp(b))


def test_removed_positions_are_forgotten(line: list[Stage], fresh: list[Stage]) -> None:
    _run(line, _TOKENS[:20])
    for _, context in line:
        assert context.kv_remove(0, 10, -1)
    expected = np.stack([_run(fresh, _TOKENS[:10]), _run(fresh, [9], start=10)])[1]
    assert _close(_run(line, [9], start=10), expected)


def test_a_removed_sequence_leaves_the_others_alone(line: list[Stage], fresh: list[Stage]) -> None:
    _run(line, _TOKENS[:20], sequence=0)
    _run(line, _TOKENS[5:15], sequence=1)
    for _, context in line:
        assert context.kv_remove(0, 0, -1)
    _run(fresh, _TOKENS[5:15], sequence=1)
    assert _close(_run(line, [9], start=10, sequence=1), _run(fresh, [9], start=10, sequence=1))


def test_a_copied_sequence_goes_its_own_way(line: list[Stage], fresh: list[Stage]) -> None:
    _run(line, _TOKENS[:20])
    for _, context in line:
        context.kv_copy(0, 1, 0, -1)
    _run(line, [1], start=20, sequence=0)
    _run(fresh, _TOKENS[:20])
    assert _close(_run(line, [9], start=20, sequence=1), _run(fresh, [9], start=20))


def test_a_prefix_can_be_copied_where_all_share_one_cache(line: list[Stage], fresh: list[Stage]) -> None:
    _run(line, _TOKENS[:20])
    for _, context in line:
        context.kv_copy(0, 2, 0, 10)
    _run(fresh, _TOKENS[:10])
    assert _close(_run(line, [9], start=10, sequence=2), _run(fresh, [9], start=10))


@pytest.mark.parametrize("cuts", [(), (2,)])
def test_with_a_cache_per_sequence_a_whole_one_is_copied_and_a_part_refused(tiny: Path, cuts: tuple[int, ...]) -> None:
    with open_line(tiny, cuts, _PARAMS) as stages:
        _run(stages, _TOKENS[:20])
        expected = _run(stages, [9], start=20)
        for _, context in stages:
            assert context.kv_remove(0, 20, -1)
            context.kv_copy(0, 3, 0, -1)
            with pytest.raises(ValueError, match="only whole sequences can be copied"):
                context.kv_copy(0, 2, 0, 10)
        assert np.array_equal(_run(stages, [9], start=20, sequence=3), expected)


def test_keeping_one_sequence_forgets_the_others(line: list[Stage], fresh: list[Stage]) -> None:
    _run(line, _TOKENS[:20], sequence=0)
    _run(line, _TOKENS[3:9], sequence=1)
    for _, context in line:
        context.kv_keep(1)
    _run(fresh, _TOKENS[3:9], sequence=1)
    assert _close(_run(line, [9], start=6, sequence=1), _run(fresh, [9], start=6, sequence=1))
    # Position 0 of the forgotten sequence is free again.
    _run(line, _TOKENS[:5], sequence=0)


def test_shifted_positions_close_a_gap(line: list[Stage], fresh: list[Stage]) -> None:
    _run(line, _TOKENS[:20])
    for _, context in line:
        assert context.kv_remove(0, 5, 10)
        context.kv_shift(0, 10, -1, -5)
    shifted = _run(line, [9], start=15)
    _run(fresh, _TOKENS[:20])
    for _, context in fresh:
        assert context.kv_remove(0, 5, 10)
        context.kv_shift(0, 10, -1, -5)
    assert np.array_equal(shifted, _run(fresh, [9], start=15))
    # Not what these tokens would have given without the removed ones between them, but near it.
    assert np.isfinite(shifted).all()


def test_a_cleared_cache_is_an_empty_one(line: list[Stage], fresh: list[Stage]) -> None:
    _run(line, _TOKENS)
    for _, context in line:
        context.kv_clear()
    assert np.array_equal(_run(line, _TOKENS[:7]), _run(fresh, _TOKENS[:7]))


def test_a_recurrent_state_cannot_forget_a_part_nor_shift(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", "mamba", n_layer=2)
    with open_line(model, (1,), _PARAMS) as stages:
        _run(stages, [1] * 20)
        for _, context in stages:
            for start, end in ((5, 10), (0, 10), (10, 20), (10, -1)):
                assert not context.kv_remove(0, start, end)
            assert context.kv_remove(0, 0, -1)
        assert np.isfinite(_run(stages, [1] * 20)).all()


def test_a_context_may_be_longer_than_asked_never_shorter(tiny: Path) -> None:
    params = ContextParams(n_ctx_seq=300, n_seq_max=2, n_batch=64, n_ubatch=32)
    with Model.load(tiny) as model, Context(model, params) as context:
        assert context.n_ctx_seq >= 300
        assert context.n_ctx_seq % 256 == 0


@pytest.mark.parametrize("kv_type", ["q8_0", "bf16", "f32"])
def test_a_cache_of_another_type_is_split_alike(kv_type: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", "llama", quantisation="q8_0", n_layer=4)
    params = ContextParams(
        n_ctx_seq=256, n_seq_max=2, n_batch=64, n_ubatch=16, n_threads=1,
        kv_type_k=kv_type, kv_type_v=kv_type, flash_attention=FlashAttention.ON,
    )  # fmt: skip
    tokens = [t % 90 for t in _TOKENS]
    with open_line(model, (), params) as stages:
        expected = np.stack([_run(stages, tokens), _run(stages, [9], start=30)])
    with open_line(model, (1, 3), params) as stages:
        assert np.array_equal(np.stack([_run(stages, tokens), _run(stages, [9], start=30)]), expected)
