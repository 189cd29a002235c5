# SPDX-License-Identifier: MIT
"""Experts in system memory: bit for bit what llama.cpp does with the same overrides, and counted where they lie."""

import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from native import (
    Batch,
    Context,
    ContextParams,
    CrossingTensor,
    FlashAttention,
    LayerRange,
    Model,
    dry_run,
    find_device,
    read_layout,
)
from tests.conformance.split_check import Stage, run_session, session_steps
from tests.models import write_model
from tests.plain_llama import plain_session

# llama.cpp aligns every tensor in a buffer.
_PADDING_BYTES = 4096

# Six layers; deepseek2's first has no experts. With the cuts, n_cpu_moe of each stage, and the layers that this means.
_LINES = [
    pytest.param("llama-moe", "q4_0", (3,), (2, 1), (0, 1, 3), id="two stages, repacked"),
    pytest.param("deepseek2", "f32", (2, 5), (1, 2, 1), (1, 2, 3, 5), id="three stages, one layer without experts"),
    pytest.param("llama-moe", "f32", (), (4,), (0, 1, 2, 3), id="whole"),
]


def _params(n_ubatch: int) -> ContextParams:
    return ContextParams(
        n_ctx_seq=256,
        n_seq_max=2,
        n_batch=64,
        n_ubatch=n_ubatch,
        n_threads=1,
        flash_attention=FlashAttention.OFF,
    )


@contextmanager
def _line(
    path: Path, device: str, cuts: Sequence[int], n_cpu_moe: Sequence[int], params: ContextParams
) -> Iterator[list[Stage]]:
    """Stages on one device, each with so many layers' experts in system memory."""
    bounds = [0, *cuts, read_layout(path).n_layer]
    with ExitStack() as stack:
        stages = []
        for (start, end), n in zip(itertools.pairwise(bounds), n_cpu_moe, strict=True):
            model = stack.enter_context(Model.load(path, layers=LayerRange(start, end), device=device, n_cpu_moe=n))
            stages.append((model, stack.enter_context(Context(model, params))))
        yield stages


def _expert_bytes(path: Path, layers: Sequence[int]) -> int:
    return sum(t.n_bytes for t in read_layout(path).tensors if "_exps." in t.name and t.layer in layers)


def _plainly(path: Path, device: str, layers: Sequence[int], params: ContextParams) -> np.ndarray:
    """As llama.cpp's --n-cpu-moe does for these layers. Source: llm_ffn_block_regex in common/common.h."""
    names = [rf"blk\.{layer}\.ffn_(up|down|gate|gate_up)_(ch|)exps" for layer in layers]
    return plain_session(path, device, names, params)


@pytest.mark.parametrize(("kind", "quantisation", "cuts", "n_cpu_moe", "layers"), _LINES)
def test_on_the_cpu_all_is_as_with_llama_cpps_overrides_and_experts_count_apart(
    kind: str,
    quantisation: str,
    cuts: tuple[int, ...],
    n_cpu_moe: tuple[int, ...],
    layers: tuple[int, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = write_model(tmp_path / "model.gguf", kind, quantisation=quantisation)
    params = _params(n_ubatch=16)
    with _line(path, "CPU", cuts, n_cpu_moe, params) as stages:
        assert np.array_equal(run_session(stages), _plainly(path, "CPU", layers, params))
        for (model, context), n in zip(stages, n_cpu_moe, strict=True):
            use = context.memory()
            assert use == dry_run(path, model.layers, "CPU", params, n)
            assert use.host_bytes == _expert_bytes(path, [layer for layer in layers if layer in model.layers]) > 0
    assert "read as a whole" not in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "quantisation", "cuts", "n_cpu_moe", "layers"), _LINES)
def test_beside_a_gpu_all_is_as_with_llama_cpps_overrides_and_experts_lie_in_system_memory(
    kind: str,
    quantisation: str,
    cuts: tuple[int, ...],
    n_cpu_moe: tuple[int, ...],
    layers: tuple[int, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gpu = find_device().name
    path = write_model(tmp_path / "model.gguf", kind, quantisation=quantisation)
    # The prompt of 40 tokens is large enough for llama.cpp to copy experts to the GPU; those of 22 and 2 are not.
    params = _params(n_ubatch=64)
    with _line(path, gpu, cuts, n_cpu_moe, params) as stages:
        uses = [context.memory() for _, context in stages]
        logits = run_session(stages)
    assert np.array_equal(logits, _plainly(path, gpu, layers, params))
    # The CPU does not add as the GPU does: so it was the CPU.
    assert not np.array_equal(logits, _plainly(path, gpu, [], params))
    for use, (model, _), n in zip(uses, stages, n_cpu_moe, strict=True):
        expert_bytes = _expert_bytes(path, [layer for layer in layers if layer in model.layers])
        told, without = (dry_run(path, model.layers, gpu, params, n_moved) for n_moved in (n, 0))
        assert use.host_bytes > expert_bytes
        assert abs(use.device_bytes - told.device_bytes) <= _PADDING_BYTES
        assert abs(use.host_bytes - told.host_bytes) <= _PADDING_BYTES
        assert abs(without.weights_bytes - told.weights_bytes) <= _PADDING_BYTES
        assert without.device_bytes > told.device_bytes
    assert "read as a whole" not in caplog.text


# What ggml's scheduler says of a node, its backend's name cut to five letters. Source:
# ggml_backend_sched_print_assignments in ggml/src/ggml-backend.cpp.
_NODE = re.compile(r"node #\s*\d+ .*\): +(\S+-(\d+)) .*\) \[ *(\S+)")


def _owners(log: pytest.LogCaptureFixture) -> set[tuple[int, str, str]]:
    """Layer, op and the backend that computed it, since the log was cleared."""
    # Of an op's sources each is a record of its own.
    nodes = filter(None, (_NODE.match(record.getMessage()) for record in log.records))
    return {(int(node[2]), node[1], node[3]) for node in nodes}


@pytest.mark.gpu
def test_every_op_is_computed_where_llama_cpp_computes_it_and_other_layers_on_wires(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGML_SCHED_DEBUG", "2")
    caplog.set_level(logging.DEBUG, "native.llama_cpp")
    gpu = find_device().name
    path = write_model(tmp_path / "model.gguf", "llama-moe", n_layer=4)
    _plainly(path, gpu, [0, 1, 2, 3], _params(n_ubatch=64))
    plain = _owners(caplog)
    assert {owner for _, op, owner in plain if op == "ffn_moe_down-0"} == {gpu[:5], "CPU"}
    assert {owner for _, op, owner in plain if op == "ffn_moe_out-0"} == {gpu[:5]}
    with _line(path, gpu, (1, 3), (1, 2, 1), _params(n_ubatch=64)) as stages:
        owners: list[set[tuple[int, str, str]]] = [set() for _ in stages]
        for tokens, positions, seq_ids in session_steps(96):
            rows = range(len(tokens))
            batch = Batch(*(np.array(values, np.int32) for values in (tokens, positions, seq_ids, rows)))
            crossing: list[CrossingTensor] = []
            for (_, context), seen in zip(stages, owners, strict=True):
                caplog.clear()
                crossing = context.step(batch, crossing)
                seen |= _owners(caplog)
    for (model, _), seen in zip(stages, owners, strict=True):
        assert seen == {(il, op, owner if il in model.layers else "WIRE_") for il, op, owner in plain}


@pytest.mark.parametrize(
    ("kind", "layers", "n_cpu_moe", "complaint"),
    [
        ("deepseek2", LayerRange(0, 3), 3, r"experts of 3 layers .*, and of layers \[0, 3\) of model\.gguf 2 have"),
        ("llama", LayerRange(0, 6), 1, r"experts of 1 layers .* 0 have experts"),
        ("llama-moe", LayerRange(0, 6), -1, r"experts of -1 layers"),
    ],
)
def test_more_layers_with_experts_than_there_are_is_refused(
    kind: str, layers: LayerRange, n_cpu_moe: int, complaint: str, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "model.gguf", kind)
    with pytest.raises(ValueError, match=complaint):
        Model.load(path, layers=layers, device="CPU", n_cpu_moe=n_cpu_moe)
