# SPDX-License-Identifier: MIT
"""What crosses a boundary between two stages, and what a stage does when it is not what it asks for."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Queue

import numpy as np
import psutil
import pytest

import native.model
from native import Batch, Context, ContextParams, CrossingError, CrossingTensor, FlashAttention, LayerRange, Model
from tests.conformance.split_check import Logits, Stage, open_line, run_session, run_step
from tests.models import write_model

_PARAMS = ContextParams(n_ctx_seq=256, n_seq_max=2, n_batch=64, n_ubatch=16, n_threads=1)


def _batch(n_tokens: int, *, start: int = 0) -> Batch:
    positions = np.arange(start, start + n_tokens, dtype=np.int32)
    zeros = np.zeros(n_tokens, np.int32)
    return Batch(positions % 90, positions, zeros, np.arange(n_tokens, dtype=np.int32))


@pytest.fixture
def two_stages(tiny: Path) -> Iterator[tuple[Context, Context]]:
    with open_line(tiny, (2,), _PARAMS) as ((_, first), (_, last)):
        yield first, last


def test_what_crosses_has_a_key_a_type_and_a_shape(two_stages: tuple[Context, Context]) -> None:
    first, _ = two_stages
    crossing = first.step(_batch(40))
    assert [(tensor.dtype, tensor.shape, len(tensor.data)) for tensor in crossing] == [
        ("f32", (64, 16, 1, 1), 64 * 16 * 4),
        ("f32", (64, 16, 1, 1), 64 * 16 * 4),
        ("f32", (64, 8, 1, 1), 64 * 8 * 4),
    ]
    assert [tensor.key.split("/")[0] for tensor in crossing] == ["0", "1", "2"]
    assert all("l_out-1" in tensor.key for tensor in crossing)


Spoil = Callable[[Sequence[CrossingTensor]], list[CrossingTensor]]

_SPOILT: list[tuple[str, Spoil, str]] = [
    ("nothing arrives", lambda _: [], "0/l_out-1.* did not arrive"),
    ("one is missing", lambda tensors: list(tensors[:1]), "1/l_out-1.* did not arrive"),
    ("another name", lambda tensors: [replace(tensors[0], key="0/l_out-0"), *tensors[1:]], "did not arrive"),
    (
        "another shape",
        lambda tensors: [replace(tensors[0], shape=(16, 64, 1, 1)), *tensors[1:]],
        r"0/l_out-1.* arrived as .*\[16, 64, 1, 1\].*expected .*\[64, 16, 1, 1\]",
    ),
    (
        "another type",
        lambda tensors: [replace(tensors[0], dtype="i32"), *tensors[1:]],
        "0/l_out-1.* arrived as type 26",
    ),
    (
        "half of the bytes",
        lambda tensors: [replace(tensors[0], data=tensors[0].data[:2048]), *tensors[1:]],
        "0/l_out-1.* of 2048 bytes",
    ),
    ("no bytes", lambda tensors: [replace(tensors[0], data=b""), *tensors[1:]], "0/l_out-1.* of 0 bytes"),
    ("the same twice", lambda tensors: [*tensors, tensors[0]], "0/l_out-1.* arrived twice"),
    (
        "one that nobody asks for",
        lambda tensors: [*tensors, replace(tensors[0], key="7/l_out-1")],
        "7/l_out-1 arrived and was never asked for",
    ),
    ("a type that cannot cross", lambda tensors: [replace(tensors[0], dtype="q4_0")], "has dtype q4_0"),
    ("five dimensions", lambda tensors: [replace(tensors[0], shape=(64, 16, 1, 1, 1))], r"shape \(64, 16, 1, 1, 1\)"),
]


@pytest.mark.parametrize(("spoil", "complaint"), [case[1:] for case in _SPOILT], ids=[case[0] for case in _SPOILT])
def test_a_step_fails_with_the_name_of_what_is_wrong(
    two_stages: tuple[Context, Context], spoil: Spoil, complaint: str
) -> None:
    first, last = two_stages
    crossing = first.step(_batch(32))
    with pytest.raises(CrossingError, match=complaint):
        last.step(_batch(32), spoil(crossing))


def test_after_a_fault_and_a_cleared_cache_a_stage_is_as_good_as_new(tiny: Path) -> None:
    with open_line(tiny, (), _PARAMS) as whole:
        expected = run_session(whole)
    with open_line(tiny, (2,), _PARAMS) as stages:
        contexts = [context for _, context in stages]
        contexts[0].step(_batch(32))
        with pytest.raises(CrossingError):
            contexts[1].step(_batch(32), [])
        for context in contexts:
            context.kv_clear()
        assert np.array_equal(run_session(stages), expected)


def test_a_tried_step_needs_nothing_that_arrives_and_leaves_the_next_ones_exact(tiny: Path) -> None:
    with open_line(tiny, (), _PARAMS) as whole:
        expected = run_session(whole)
    with open_line(tiny, (1, 3), _PARAMS) as stages:
        contexts = [context for _, context in stages]
        for context in contexts:
            for n_tokens in (40, 1):
                context.try_step(_batch(n_tokens))
                context.kv_clear()
        assert np.array_equal(run_session(stages), expected)


def test_a_whole_model_tries_a_step_as_it_takes_one(tiny: Path) -> None:
    with open_line(tiny, (), _PARAMS) as ((_, context),):
        context.step(_batch(8))
        logits = context.logits(7).copy()
        context.kv_clear()
        context.try_step(_batch(8))
        assert np.array_equal(context.logits(7), logits)


def test_a_batch_out_of_bounds_cannot_be_tried(two_stages: tuple[Context, Context]) -> None:
    with pytest.raises(ValueError, match="more than n_batch"):
        two_stages[1].try_step(_batch(65))


# Of Gemma 4 the later layers read the KV cache of an earlier one: it crosses, in its own type.
@pytest.mark.parametrize("kv_type", ["f32", "f16", "bf16"])
def test_made_up_values_are_numbers_and_differ_from_token_to_token(kv_type: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", "gemma4")
    params = replace(_PARAMS, kv_type_k=kv_type, kv_type_v=kv_type, flash_attention=FlashAttention.OFF)
    with open_line(model, (3,), params) as ((_, first), (_, last)):
        assert kv_type in {tensor.dtype for tensor in first.step(_batch(8))}
        tokens = np.zeros(2, np.int32)
        # Nothing but what was made up distinguishes the two.
        last.try_step(Batch(tokens, tokens, np.arange(2, dtype=np.int32), np.arange(2, dtype=np.int32)))
        one, other = last.logits(0), last.logits(1)
        assert np.isfinite(one).all()
        assert np.isfinite(other).all()
        assert not np.array_equal(one, other)


def test_the_first_stage_is_given_nothing(two_stages: tuple[Context, Context]) -> None:
    first, _ = two_stages
    crossing = first.step(_batch(4))
    with pytest.raises(ValueError, match="first stage takes no crossing tensors"):
        first.step(_batch(4, start=4), crossing)


def test_a_step_may_not_capture_or_be_given_more_than_its_bound(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 64 * 16 * 4
    monkeypatch.setattr(native.model, "MAX_STEP_BYTES", bound)
    with open_line(tiny, (2,), _PARAMS) as ((_, first), (_, last)):
        crossing = first.step(_batch(16))
        last.step(_batch(16), crossing)
        with pytest.raises(CrossingError, match=f"more than {bound} bytes in one step"):
            first.step(_batch(17, start=16))
        with pytest.raises(CrossingError, match=f"at most {bound} are allowed"):
            last.step(_batch(16, start=16), [crossing[0], replace(crossing[0], key="1/l_out-1")])


def test_memory_does_not_grow_over_two_thousand_steps(two_stages: tuple[Context, Context]) -> None:
    process = psutil.Process()

    def decode(n_steps: int) -> None:
        for i in range(n_steps):
            if i % 200 == 0:
                for context in two_stages:
                    context.kv_clear()
            batch = _batch(1, start=i % 200)
            two_stages[1].step(batch, two_stages[0].step(batch))

    decode(400)
    before = process.memory_full_info().uss
    decode(2000)
    assert process.memory_full_info().uss - before < 1 << 20


def test_two_stages_step_at_the_same_time_on_two_threads(tiny: Path) -> None:
    batches = [_batch(40), *(_batch(1, start=40 + i) for i in range(60))]
    with open_line(tiny, (2,), _PARAMS) as stages:
        one_by_one = [_run(stages, batch) for batch in batches]
    with open_line(tiny, (2,), _PARAMS) as ((_, first), (_, last)):
        # Room for several, so that the first stage works on a later batch than the last one.
        hop: Queue[list[CrossingTensor] | None] = Queue(maxsize=4)
        at_once: list[Logits] = []

        def compute_first() -> None:
            try:
                for batch in batches:
                    hop.put(first.step(batch))
            finally:
                hop.put(None)

        thread = threading.Thread(target=compute_first)
        thread.start()
        for batch in batches:
            crossing = hop.get()
            assert crossing is not None
            last.step(batch, crossing)
            at_once.append(last.logits(len(batch.tokens) - 1).copy())
        thread.join()
    assert all(np.array_equal(a, b) for a, b in zip(one_by_one, at_once, strict=True))


def _run(stages: Sequence[Stage], batch: Batch) -> Logits:
    crossing: list[CrossingTensor] = []
    for _, context in stages:
        crossing = context.step(batch, crossing)
    return stages[-1][1].logits(len(batch.tokens) - 1).copy()


@pytest.mark.parametrize("kind", ["llama", "gemma4", "rwkv7"])
def test_batches_of_changing_shapes_do_not_confuse_a_stage(kind: str, tmp_path: Path) -> None:
    """llama.cpp builds, keeps and rebuilds its graphs as batches change; what crosses follows."""
    model = write_model(tmp_path / "model.gguf", kind)
    random = np.random.default_rng(11)
    sizes = [int(n) for n in random.integers(1, 50, 30)]

    def run(cuts: Sequence[int]) -> Logits:
        with open_line(model, cuts, _PARAMS) as stages:
            logits = []
            ends = [0, 0]
            for i, size in enumerate(sizes):
                sequence = i % 3 % 2
                if ends[sequence] + size > _PARAMS.n_ctx_seq:
                    ends[sequence] = 0
                    for _, context in stages:
                        context.kv_remove(sequence, 0, -1)
                start = ends[sequence]
                tokens = [(7 * position + i) % 64 for position in range(start, start + size)]
                logits.append(run_step(stages, tokens, range(start, start + size), [sequence] * size))
                ends[sequence] += size
            return np.concatenate(logits)

    assert np.array_equal(run((1, 3)), run(()))


@contextmanager
def _two_contexts_each(path: Path, cut: int) -> Iterator[list[list[Stage]]]:
    """Two lines over the same two loaded stages."""
    with ExitStack() as stack:
        ranges = [LayerRange(0, cut), LayerRange(cut, 4)]
        models = [stack.enter_context(Model.load(path, layers=layers)) for layers in ranges]
        yield [[(model, stack.enter_context(Context(model, _PARAMS))) for model in models] for _ in range(2)]


def test_two_contexts_on_one_stage_do_not_mix(tiny: Path) -> None:
    with open_line(tiny, (), _PARAMS) as whole:
        expected = run_session(whole)
    with _two_contexts_each(tiny, 2) as (one, other):
        run_step(other, [1] * 30, range(30), [0] * 30)
        assert np.array_equal(run_session(one), expected)
        run_step(other, [1], [30], [0])
        for _, context in one:
            context.kv_clear()
        assert np.array_equal(run_session(one), expected)


def test_a_stage_that_is_not_the_last_has_no_logits_that_look_like_values(two_stages: tuple[Context, Context]) -> None:
    first, _ = two_stages
    first.step(_batch(4))
    with pytest.raises(ValueError, match="has no logits"):
        first.logits(3)
