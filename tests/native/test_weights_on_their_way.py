# SPDX-License-Identifier: MIT
"""A stage whose tensors come while it loads computes what it would with all of them there, or does not load."""

import os
import sys
import threading
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from native import (
    Context,
    ContextParams,
    LayerRange,
    LoadFailedError,
    Model,
    ModelLayout,
    TensorLayout,
    read_layout,
)
from native.placement import tensors_elsewhere
from tests.conformance.split_check import Logits, run_session
from tests.models import split_model, write_model
from tests.native.arriving import Arriving

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a stage reads the whole file there")

_PARAMS = ContextParams(n_ctx_seq=256, n_seq_max=2, n_batch=64, n_ubatch=16, n_threads=1)


def _logits(model: Path, cuts: tuple[int, ...], folder: Path | None = None) -> Logits:
    """Of a line of stages, each with weights that arrive in a folder of its own, if one is given."""
    bounds = (0, *cuts, read_layout(model).n_layer)
    with ExitStack() as stack:
        stages = []
        for start, end in pairwise(bounds):
            weights = None if folder is None else stack.enter_context(Arriving(model, folder / f"{start}"))
            layers = LayerRange(start, end) if cuts else None
            path = model if weights is None else weights.paths[0]
            loaded = stack.enter_context(Model.load(path, layers=layers, device="CPU", weights=weights))
            stages.append((loaded, stack.enter_context(Context(loaded, _PARAMS))))
            if weights is not None:
                elsewhere = tensors_elsewhere(weights.layout, LayerRange(start, end))
                assert not elsewhere.intersection(weights.asked)
                assert len(weights.asked) == len(set(weights.asked)) == len(weights.layout.tensors) - len(elsewhere)
        return run_session(stages)


@pytest.fixture
def in_parts(tmp_path: Path) -> Path:
    return split_model(write_model(tmp_path / "whole.gguf", "llama", n_layer=4), tmp_path / "model")[0]


@pytest.mark.parametrize("cuts", [(), (2,), (1, 3)])
def test_tensors_are_waited_for_once_and_only_the_own_ones(cuts: tuple[int, ...], tmp_path: Path) -> None:
    model = write_model(tmp_path / "tied.gguf", "llama-tied", n_layer=4)
    assert np.array_equal(_logits(model, cuts, tmp_path), _logits(model, ()))


def test_a_model_in_several_files_is_loaded_when_all_its_own_tensors_are_there(in_parts: Path, tmp_path: Path) -> None:
    assert np.array_equal(_logits(in_parts, (1, 3), tmp_path), _logits(in_parts, ()))


@pytest.mark.parametrize("is_split", [False, True])
def test_where_llama_cpp_puts_a_tensor_elsewhere_than_foreseen_all_of_them_are_waited_for(
    is_split: bool, tiny: Path, in_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_but_one(layout: ModelLayout, layers: LayerRange) -> frozenset[TensorLayout]:
        named = {tensor for tensor in layout.tensors if tensor.name == "blk.1.attn_q.weight"}
        return tensors_elsewhere(layout, layers) | named

    for module in ("model", "partial_file"):
        monkeypatch.setattr(f"native.{module}.tensors_elsewhere", all_but_one)
    with Arriving(in_parts if is_split else tiny, tmp_path / "arriving") as weights:
        with Model.load(weights.paths[0], layers=LayerRange(1, 3), device="CPU", weights=weights):
            pass
        assert set(weights.asked) == set(weights.layout.tensors)


class Lost(Exception):
    pass


@pytest.mark.parametrize("is_split", [False, True])
def test_what_a_wait_raises_is_what_the_load_fails_with(
    is_split: bool, tiny: Path, in_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(_self: Arriving, tensor: TensorLayout) -> int:
        raise Lost(tensor.name)

    monkeypatch.setattr(Arriving, "descriptor", lose)
    with (
        Arriving(in_parts if is_split else tiny, tmp_path / "arriving") as weights,
        pytest.raises(Lost, match="weight"),
    ):
        Model.load(weights.paths[0], layers=LayerRange(1, 3), device="CPU", weights=weights)


def test_python_runs_on_while_a_load_waits(tiny: Path, tmp_path: Path) -> None:
    has_come = threading.Event()

    class Late(Arriving):
        def descriptor(self, tensor: TensorLayout) -> int:
            assert has_come.wait(10)
            return super().descriptor(tensor)

    with Late(tiny, tmp_path / "arriving") as weights:
        timer = threading.Timer(0.2, has_come.set)
        started = time.monotonic()
        timer.start()
        with Model.load(weights.paths[0], layers=LayerRange(1, 3), device="CPU", weights=weights):
            assert time.monotonic() - started >= 0.2
        timer.join()


def test_a_file_that_ends_before_a_tensor_that_was_said_to_be_there_fails_the_load(tiny: Path, tmp_path: Path) -> None:
    class Short(Arriving):
        def descriptor(self, tensor: TensorLayout) -> int:
            fd = super().descriptor(tensor)
            os.truncate(fd, tensor.offset_bytes)
            return fd

    with (
        Short(tiny, tmp_path / "arriving") as weights,
        pytest.raises(LoadFailedError, match="unexpectedly reached end of file"),
    ):
        Model.load(weights.paths[0], layers=LayerRange(1, 3), device="CPU", weights=weights)
