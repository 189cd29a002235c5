# SPDX-License-Identifier: MIT
"""A stage on several cards: what it computes is what llama.cpp computes on them, and a dry run knows each card's bytes.

Tests marked gpu want two cards, of which one may be shown twice: GGML_VK_VISIBLE_DEVICES=0,0 or GGML_CUDA_DEVICES=2.
"""

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from native import (
    Batch,
    Cards,
    Context,
    ContextParams,
    FlashAttention,
    LayerRange,
    Model,
    Split,
    UnsupportedModelError,
    dry_run,
)
from tests.conformance.split_check import Logits, run_session, run_step
from tests.model_kinds import Size
from tests.models import write_model
from tests.native.arriving import Arriving
from tests.plain_llama import plain_session

PARAMS = ContextParams(
    n_ctx_seq=256, n_seq_max=2, n_batch=64, n_ubatch=16, flash_attention=FlashAttention.ON, n_threads=1
)
Part = tuple[LayerRange | None, str | Cards]
EXPERTS = r"blk\.(0|1|3)\.ffn_(up|down|gate|gate_up)_(ch|)exps"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers, each tensor of which is large enough for two cards to have a part, and small enough for the Vulkan
    backend to add up its norms alike with and without the addition in front of them, which is another stage's."""
    return write_model(tmp_path_factory.mktemp("models") / "wide.gguf", "llama", size=Size(6, n_embd=128))


def session(path: Path, parts: Sequence[Part], params: ContextParams = PARAMS) -> Logits:
    """The line's logits."""
    with ExitStack() as stack:
        stages = []
        for layers, device in parts:
            model = stack.enter_context(Model.load(path, layers=layers, device=device))
            stages.append((model, stack.enter_context(Context(model, params))))
        return run_session(stages)


def line(cuts: Sequence[int], *cards: str | Cards) -> list[Part]:
    """A stage of six layers for each of `cards`."""
    return list(zip(itertools.starmap(LayerRange, itertools.pairwise([0, *cuts, 6])), cards, strict=True))


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gemma3n", "deepseek2", "granitehybrid"])
def test_a_stage_behind_two_fences_is_the_same_stage(kind: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", kind, n_layer=6)
    params = replace(PARAMS, flash_attention=FlashAttention.OFF)

    def twice(*shares: int) -> Cards:
        return Cards(("CPU", "CPU"), Split.LAYER, shares)

    expected = session(path, [(None, "CPU")], params)
    assert np.array_equal(session(path, line([1, 5], "CPU", twice(1, 3), "CPU"), params), expected)
    assert np.array_equal(session(path, line([3], twice(2, 1), twice(0, 3)), params), expected)


def test_cards_need_shares_of_exactly_the_layers(tiny: Path) -> None:
    with pytest.raises(ValueError, match="CUDA0, CUDA1 need a share each, and not 0 for all"):
        Cards(("CUDA0", "CUDA1"), Split.LAYER, (0, 0))
    with pytest.raises(ValueError, match=r"shares \(1, 2\) of layers \[0, 2\) are not all of them, or more"):
        Model.load(tiny, layers=LayerRange(0, 2), device=Cards(("CPU", "CPU"), Split.LAYER, (1, 2)))


def test_experts_do_not_lie_in_system_memory_beside_cards_that_share_tensors(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", "qwen3moe", n_layer=2)
    with pytest.raises(ValueError, match="experts cannot lie in system memory beside cards that share tensors"):
        dry_run(path, LayerRange(0, 1), Cards(("CPU", "CPU"), Split.TENSOR, (1, 1)), PARAMS, n_cpu_moe=1)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3moe"])
def test_layers_on_two_cards_compute_what_one_card_does(kind: str, cards: tuple[str, str], tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", kind, n_layer=6)

    def both(*shares: int) -> Cards:
        return Cards(cards, Split.LAYER, shares)

    expected = session(path, [(None, cards[0])])
    assert np.array_equal(plain_session(path, both(4, 3), [], PARAMS), expected)
    assert np.array_equal(session(path, [(None, both(4, 2))]), expected)
    assert np.array_equal(session(path, line([1, 5], cards[1], both(1, 3), cards[0])), expected)
    assert np.array_equal(session(path, line([3], both(1, 2), both(2, 1))), expected)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tensors_shared_in_a_stage_compute_what_llama_cpp_does(cards: tuple[str, str], wide: Path) -> None:
    both = Cards(cards, Split.TENSOR, (1, 1))
    expected = plain_session(wide, both, [], PARAMS)
    assert np.array_equal(session(wide, [(None, both)]), expected)
    assert np.array_equal(session(wide, line([1, 5], both, both, both)), expected)
    # The sum of two cards' halves is not that of one.
    beside_one_card = session(wide, line([3], both, cards[1]))
    assert not np.array_equal(beside_one_card, expected)
    np.testing.assert_allclose(beside_one_card, expected, atol=0.01)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_experts_lie_in_system_memory_beside_cards_that_share_layers(cards: tuple[str, str], tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", "llama-moe", n_layer=6)
    with ExitStack() as stack:
        stages = []
        for start, end, shares, n_cpu_moe in ((0, 3, (1, 2), 2), (3, 6, (2, 1), 1)):
            layers, both = LayerRange(start, end), Cards(cards, Split.LAYER, shares)
            model = stack.enter_context(Model.load(path, layers=layers, device=both, n_cpu_moe=n_cpu_moe))
            stages.append((model, stack.enter_context(Context(model, PARAMS))))
            use, told = stages[-1][1].memory(), dry_run(path, layers, both, PARAMS, n_cpu_moe)
            assert use.host_bytes == pytest.approx(told.host_bytes, abs=4096)
            assert use.cards == told.cards
            assert use.device_bytes == sum(card.device_bytes for card in use.cards)
        logits = run_session(stages)
    both = Cards(cards, Split.LAYER, (3, 4))
    assert np.array_equal(logits, plain_session(path, both, [EXPERTS], PARAMS))
    assert not np.array_equal(logits, plain_session(path, both, [], PARAMS))


@pytest.mark.gpu
@pytest.mark.parametrize("split", [Split.LAYER, Split.TENSOR])
def test_weights_may_come_while_they_are_dealt_out_to_cards(
    split: Split, cards: tuple[str, str], wide: Path, tmp_path: Path
) -> None:
    layers, both = LayerRange(2, 4), Cards(cards, split, (1, 1))
    batch = Batch(*(np.array(values, np.int32) for values in ([5, 6], [0, 1], [0, 0], [])))
    with Model.load(wide, layers=LayerRange(0, 2), device="CPU") as first, Context(first, PARAMS) as context:
        crossing = context.step(batch)
    crossed = []
    with Arriving(wide, tmp_path / "arriving") as arriving:
        for weights in (None, arriving):
            with Model.load(wide, layers=layers, device=both, weights=weights) as model, Context(model, PARAMS) as own:
                crossed.append(own.step(batch, crossing))
    assert crossed[0] == crossed[1] != []
    assert {tensor.layer for tensor in arriving.asked} >= {2, 3}


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("split", [Split.LAYER, Split.TENSOR])
def test_caches_on_two_cards_are_copied_and_shifted_like_on_one(
    split: Split, cards: tuple[str, str], wide: Path
) -> None:
    def run(parts: Sequence[Part]) -> Logits:
        with ExitStack() as stack:
            stages = []
            for layers, device in parts:
                model = stack.enter_context(Model.load(wide, layers=layers, device=device))
                stages.append((model, stack.enter_context(Context(model, PARAMS))))
            rows = [run_step(stages, range(5, 45), range(40), [0] * 40)]
            for _, context in stages:
                context.kv_copy(0, 1, 0, -1)
                context.kv_remove(0, 30, -1)
                context.kv_shift(1, 5, -1, -2)
            rows.append(run_step(stages, [7, 9], [30, 38], [0, 1]))
            return np.concatenate(rows)

    shares = (1, 2) if split is Split.LAYER else (1, 1)
    both = Cards(cards, split, shares)
    expected = run([(None, cards[0] if split is Split.LAYER else both)])
    assert np.array_equal(run(line([3], both, both)), expected)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("split", "shares"), [(Split.LAYER, (1, 3)), (Split.TENSOR, (1, 1))])
def test_a_dry_run_foretells_the_bytes_on_each_card(
    split: Split, shares: tuple[int, int], cards: tuple[str, str], wide: Path
) -> None:
    both = Cards(cards, split, shares)
    foretold = dry_run(wide, LayerRange(1, 5), both, PARAMS)
    with Model.load(wide, layers=LayerRange(1, 5), device=both) as model, Context(model, PARAMS) as context:
        assert context.memory() == foretold
    assert foretold.device_bytes == sum(card.device_bytes for card in foretold.cards)
    one = dry_run(wide, LayerRange(1, 5), cards[0], PARAMS)
    assert sum(card.kv_bytes for card in foretold.cards) == one.kv_bytes
    # Norms are on both cards.
    assert sum(card.weights_bytes for card in foretold.cards) == pytest.approx(one.weights_bytes, rel=0.01)
    assert foretold.cards[1].kv_bytes == one.kv_bytes * shares[1] // sum(shares)


@pytest.mark.gpu
def test_tensors_of_which_a_card_would_get_nothing_are_not_shared(cards: tuple[str, str], tiny: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"one would get nothing of blk\.0\.ffn_gate\.weight"):
        dry_run(tiny, LayerRange(0, 2), Cards(cards, Split.TENSOR, (1, 1)), PARAMS)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["deepseek2", "rwkv7"])
def test_a_model_whose_tensors_llama_cpp_cannot_share_is_refused(
    kind: str, cards: tuple[str, str], tmp_path: Path
) -> None:
    path = write_model(tmp_path / "model.gguf", kind, n_layer=2)
    with pytest.raises(UnsupportedModelError, match=f"architecture '{kind}' cannot be shared by tensors"):
        dry_run(path, LayerRange(0, 2), Cards(cards, Split.TENSOR, (1, 1)), PARAMS)
