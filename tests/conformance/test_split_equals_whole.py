# SPDX-License-Identifier: MIT
"""A model in two, three and four stages gives llama.cpp's own logits, bit for bit: many kinds of architectures, all
weights in several formats, on models that the test writes. `scripts/conformance` does the same for all architectures.
"""

from pathlib import Path

import pytest

from native import LayerRange, Model, UnsupportedModelError, check_splittable, read_layout
from tests.conformance.split_check import check_model
from tests.model_kinds import KINDS, REFUSED
from tests.models import write_model

# Four settings (flash attention, unified KV) of at least five cuts each.
_LEAST_COMPARISONS = 20

_QUANTISED = [
    *((kind, quantisation) for kind in ("llama", "llama-tied") for quantisation in ("f16", "q8_0", "q4_0", "q4_k")),
    # llama.cpp repacks these on the CPU, experts in another way than plain weights.
    ("llama-moe", "q4_0"),
    # Weights in front of the first layer, and layers that read the KV of others.
    ("gemma4", "q4_0"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_model_gives_the_logits_of_the_whole(kind: str, tmp_path: Path) -> None:
    outcome = check_model(write_model(tmp_path / "model.gguf", kind))
    assert outcome.verdict == "identical", outcome.detail
    assert outcome.n_comparisons >= _LEAST_COMPARISONS


@pytest.mark.parametrize(("kind", "quantisation"), _QUANTISED)
def test_a_split_quantised_model_gives_the_logits_of_the_whole(kind: str, quantisation: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", kind, quantisation=quantisation)
    outcome = check_model(model, [(2,), (1, 5), (1, 3, 4)])
    assert outcome.verdict == "identical", outcome.detail
    assert outcome.n_comparisons == 12


@pytest.mark.parametrize("n_ubatch", [2, 7, 64])
def test_it_does_not_matter_into_how_many_ubatches_a_batch_is_cut(n_ubatch: int, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", "llama-tied", n_layer=4)
    outcome = check_model(model, [(1, 2, 3)], n_ubatch=n_ubatch)
    assert outcome.verdict == "identical", outcome.detail


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_line_cannot_run_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", kind)
    layout = read_layout(path)
    with pytest.raises(UnsupportedModelError, match=f"architecture '{layout.architecture}' (runs|neither)"):
        check_splittable(layout)
    with pytest.raises(UnsupportedModelError):
        Model.load(path, layers=LayerRange(0, 1))


def test_what_neither_generates_nor_embeds_text_is_refused_whole_too(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", "t5")
    with pytest.raises(UnsupportedModelError, match="neither generates text"):
        Model.load(path)
