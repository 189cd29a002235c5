# SPDX-License-Identifier: MIT
"""Resident memory of real workers against the bytes that the plan told before anything was loaded."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator import FlashAttention, LayerRange, Mesh, SamplingParams
from coordinator.candidates import MARGIN_BYTES
from coordinator.mesh import OpenOptions
from coordinator.options import MeshOptions
from tests.line.conftest import StartWorker, open_mesh
from tests.line.memory import MIB, own_bytes, plan_alone
from tests.line.processes import WorkerProcess
from tests.model_kinds import Size
from tests.models import write_model

N_CTX = 1024
N_PROMPT = 1000
"""Enough to compute with nearly the whole of a context."""

SIZES = {
    "llama": Size(24, n_embd=512),
    "llama-moe": Size(16, n_embd=384),
    "gemma3": Size(24, n_embd=512),
    "deepseek2": Size(16, n_embd=320),
    "mamba": Size(24, n_embd=512),
    "rwkv7": Size(24, n_embd=512),
    "granitehybrid": Size(24, n_embd=384),
}
"""100 to 250 MiB of weights each."""


@pytest.fixture(scope="module")
def warm_workers() -> Iterator[list[WorkerProcess]]:
    """Two that have served before: what a process takes once, for Python, gRPC and the first threads, is there. They
    keep no stage, which would count as theirs before the next is loaded."""
    started: list[WorkerProcess] = []
    try:
        started += [WorkerProcess(name, "--keep-loaded", "0") for name in ("left", "right")]
        with open_mesh(started) as mesh:
            mesh.generate("Once upon a time " * 20, max_tokens=4).wait()
        yield started
    finally:
        for worker in started:
            worker.stop()


def _options(model: Path, workers: list[WorkerProcess], kv_type: str) -> OpenOptions:
    """Half of the layers each. q8_0 values need flash attention."""
    n_layer = SIZES[model.stem].n_layer
    return {
        "workers": [worker.address for worker in workers],
        "discover": False,
        "layer_ranges": [LayerRange(0, n_layer // 2), LayerRange(n_layer // 2, n_layer)],
        "context": N_CTX,
        "parallel": 1,
        "batch": 128,
        "kv_type_k": kv_type,
        "kv_type_v": kv_type,
        "flash_attention": FlashAttention.OFF if kv_type == "f16" else FlashAttention.ON,
    }


def _taken(model: Path, workers: list[WorkerProcess], options: OpenOptions) -> dict[str, tuple[int, int]]:
    """By worker: the bytes that the plan told, and those by which the process grew, loading and computing."""
    planned = {stage.worker: stage.memory for stage in plan_alone(MeshOptions(model, **options)).stages}
    before = {worker.name: own_bytes(worker) for worker in workers}
    with Mesh.open(model, **options) as mesh:
        prompt = [4 + 7 * i % 90 for i in range(N_PROMPT)]
        mesh.generate(prompt, sampling=SamplingParams(temperature=0), max_tokens=4).wait()
        after = {worker.name: own_bytes(worker) for worker in workers}
        for stage in mesh.plan.stages:
            told, real = planned[stage.worker], stage.memory
            assert (told.weights_bytes, told.kv_bytes) == (real.weights_bytes, real.kv_bytes)
            assert real.compute_bytes <= told.compute_bytes <= 1.1 * real.compute_bytes + MIB
    return {name: (planned[name].total_bytes, after[name] - before[name]) for name in before}


def _check(model: Path, workers: list[WorkerProcess], kv_type: str) -> None:
    for name, (told_bytes, real_bytes) in _taken(model, workers, _options(model, workers, kv_type)).items():
        what = f"{name} took {real_bytes / MIB:.1f} MiB, and the plan told {told_bytes / MIB:.1f}"
        assert abs(real_bytes - told_bytes) <= max(0.02 * told_bytes, 16 * MIB), what
        print(what)


def _write(folder: Path, kind: str) -> Path:
    return write_model(folder / f"{kind}.gguf", kind, size=SIZES[kind], with_text=True)


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_a_stage_takes_what_the_plan_says(warm_workers: list[WorkerProcess], tmp_path: Path, kv_type: str) -> None:
    _check(_write(tmp_path, "llama"), warm_workers, kv_type)


def test_what_a_stage_took_is_given_back_when_it_is_dropped(warm_workers: list[WorkerProcess], tmp_path: Path) -> None:
    model = _write(tmp_path, "llama")
    before = [own_bytes(worker) for worker in warm_workers]
    for _ in range(2):
        _taken(model, warm_workers, _options(model, warm_workers, "f16"))
    kept = [own_bytes(worker) - held for worker, held in zip(warm_workers, before, strict=True)]
    # Of some 120 MiB for each stage; a huge page goes back only as a whole.
    assert max(kept) < 24 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in SIZES if kind != "llama"])
def test_a_stage_of_any_kind_takes_what_the_plan_says(
    warm_workers: list[WorkerProcess], tmp_path: Path, kind: str
) -> None:
    model = _write(tmp_path, kind)
    _check(model, warm_workers, "f16")
    if kind != "deepseek2":  # its tiny heads do not divide into blocks of 32
        _check(model, warm_workers, "q8_0")


def test_what_a_fresh_process_takes_beside_its_stage_is_within_the_margin(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    workers = [start_worker("left"), start_worker("right")]
    model = _write(tmp_path, "llama")
    for told_bytes, real_bytes in _taken(model, workers, _options(model, workers, "f16")).values():
        assert told_bytes - MIB < real_bytes < told_bytes + MARGIN_BYTES
