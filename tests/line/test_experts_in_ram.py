# SPDX-License-Identifier: MIT
"""A model whose experts exceed the workers' devices: they lie in system memory, and the text is llama.cpp's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator import Distribution, DoesNotFitError, Mesh, SamplingParams
from coordinator.mesh import OpenOptions
from coordinator.options import MeshOptions
from tests.line.conftest import StartWorker
from tests.line.memory import MIB, plan_alone
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference
from tests.model_kinds import Size
from tests.models import write_model

GREEDY = SamplingParams(temperature=0)
PROMPT = [5, 6, 7, 8]
N_CTX = 256
N_BATCH = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 layers: 27 MiB of attention and routers, 216 MiB of experts."""
    path = tmp_path_factory.mktemp("experts") / "moe.gguf"
    return write_model(path, "llama-moe", size=Size(16, n_embd=384), with_text=True)


@pytest.fixture(scope="module")
def tokens(model: Path) -> Iterator[list[int]]:
    """What llama-cpp-python makes of the prompt, alone and with all in one place."""
    reference = Reference(model, n_ctx=N_CTX, n_batch=N_BATCH)
    yield reference.greedy_tokens(PROMPT, 24)
    reference.close()


def _generated(mesh: Mesh) -> list[int]:
    return [token.id for token in mesh.generate(PROMPT, sampling=GREEDY, max_tokens=24).wait().tokens]


def _options(*workers: WorkerProcess) -> OpenOptions:
    return {
        "workers": [worker.address for worker in workers],
        "discover": False,
        "context": N_CTX,
        "batch": N_BATCH,
        "parallel": 1,
    }


def test_experts_that_exceed_a_device_lie_in_system_memory(
    start_worker: StartWorker, model: Path, tokens: list[int]
) -> None:
    worker = start_worker("small", "--memory", str(130 * MIB), "--ram", str(400 * MIB))
    options: OpenOptions = {**_options(worker), "predicted": True}
    with Mesh.open(model, **options) as mesh:
        (stage,) = mesh.plan.stages
        assert 0 < stage.n_cpu_moe < 16
        assert stage.memory.device_bytes <= 130 * MIB < stage.memory.total_bytes
        assert f"experts of {stage.n_cpu_moe} layers in RAM" in mesh.plan.explain()
        assert mesh.plan.prediction is not None
        assert _generated(mesh) == tokens


def test_two_workers_share_what_neither_holds_with_its_system_memory(
    start_worker: StartWorker, model: Path, tokens: list[int]
) -> None:
    limits = ("--memory", str(130 * MIB), "--ram", str(170 * MIB))
    workers = [start_worker(name, *limits) for name in ("left", "right")]
    alone: OpenOptions = {**_options(*workers), "distribution": Distribution.OFF}
    with pytest.raises(DoesNotFitError, match="of RAM for experts"):
        plan_alone(MeshOptions(model, **alone))
    with Mesh.open(model, **_options(*workers)) as mesh:
        assert len(mesh.plan.stages) == 2
        assert sum(stage.n_cpu_moe for stage in mesh.plan.stages) > 0
        for stage in mesh.plan.stages:
            assert stage.memory.device_bytes <= 130 * MIB
            assert stage.memory.host_bytes <= 170 * MIB
        assert _generated(mesh) == tokens


def test_without_system_memory_the_same_is_refused(start_worker: StartWorker, model: Path) -> None:
    worker = start_worker("tight", "--memory", str(130 * MIB))
    with pytest.raises(DoesNotFitError, match="too little"):
        Mesh.open(model, **_options(worker))
