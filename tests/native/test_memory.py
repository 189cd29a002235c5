# SPDX-License-Identifier: MIT
"""Resident memory of a process that holds a third of a model's layers: a third of weights and KV, plus a constant."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from native import ContextParams, LayerRange, measure_layers
from tests.model_kinds import Size
from tests.models import write_model

_ROOT = Path(__file__).parents[2]
_N_LAYER = 24
_MIB = 1 << 20

# What a worker does, without a network: load a layer range, make a context, compute. Then it says what it holds for
# itself alone: neither libraries that are shared nor pages of the file that others have mapped too.
_HOLD = """
import json, sys
import numpy as np, psutil
from native import Batch, Context, ContextParams, CrossingError, LayerRange, Model

path, start, end, params = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
tokens = np.arange(64, dtype=np.int32)
batch = Batch(tokens, tokens, np.zeros(64, np.int32), tokens[-1:])
with Model.load(path, layers=LayerRange(start, end)) as model, Context(model, ContextParams(**params)) as context:
    try:
        context.step(batch)
    except CrossingError:
        pass  # a stage in the middle computes with what did not arrive, and says so behind it
    print(json.dumps(psutil.Process().memory_full_info().uss))
"""

_PARAMS: dict[str, Any] = {"n_ctx_seq": 4096, "n_seq_max": 1, "n_batch": 64, "n_ubatch": 64, "n_threads": 1}


def _resident_bytes(path: Path, layers: LayerRange) -> int:
    command = [sys.executable, "-c", _HOLD, str(path), str(layers.start), str(layers.end), json.dumps(_PARAMS)]
    # As a worker asks for its own (worker/huge_pages.py).
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    output = subprocess.run(
        command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=True, timeout=50
    ).stdout
    return int(output)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 layers, 127 MB of weights; its KV cache of 4096 tokens takes another 75 MB."""
    return write_model(tmp_path_factory.mktemp("memory") / "model.gguf", "llama", size=Size(_N_LAYER, n_embd=384))


@pytest.mark.slow
def test_a_third_of_the_layers_takes_a_third_of_weights_and_kv_and_a_constant(model: Path) -> None:
    whole = _resident_bytes(model, LayerRange(0, _N_LAYER))
    third = _resident_bytes(model, LayerRange(8, 16))
    one = _resident_bytes(model, LayerRange(8, 9))

    layer = measure_layers(model, ContextParams(**_PARAMS)).layers[8]
    layer_bytes = layer.weights_bytes + layer.kv_bytes
    assert layer_bytes > 8 * _MIB
    constant = one - layer_bytes
    # Python, numpy, llama.cpp, and the compute buffers.
    assert 0 < constant < 100 * _MIB
    assert abs(third - (constant + 8 * layer_bytes)) < 6 * _MIB
    assert abs(whole - (constant + 24 * layer_bytes)) < 12 * _MIB
    assert third - constant < (whole - constant) * 0.36
