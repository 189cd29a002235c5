# SPDX-License-Identifier: MIT
"""Sixteen workers, more than the planner goes through exactly: hardly more than one layer each."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coordinator import Distribution, Mesh, SamplingParams
from coordinator.search import EXACT_MACHINES
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference
from tests.model_kinds import Size
from tests.models import write_model

N_WORKERS = 16
N_CTX = 128
PROMPT = [7 * i % 200 + 4 for i in range(90)]


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[WorkerProcess]]:
    """Each with a cache of its own, named like it. A few are started at a time: most of a start is waiting."""
    names = [f"box-{i:02}" for i in range(N_WORKERS)]
    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(lambda name: WorkerProcess(name, cache=tmp_path / name), names))
    yield started
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(WorkerProcess.stop, started))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_sixteen_workers_give_the_tokens_of_one_llama_cpp(workers: list[WorkerProcess], tmp_path: Path) -> None:
    assert N_WORKERS > EXACT_MACHINES
    model = write_model(tmp_path / "model.gguf", "llama", size=Size(18, n_embd=64), with_text=True)
    addresses = [worker.address for worker in workers]
    with Mesh.open(
        model,
        workers=addresses,
        discover=False,
        distribution=Distribution.ON,
        context=N_CTX,
        batch=64,
        parallel=2,
    ) as mesh:
        plan = mesh.plan
        assert sorted(stage.worker for stage in plan.stages) == [worker.name for worker in workers]
        # How the links did when they were measured says where the two more are.
        assert {len(stage.layers) for stage in plan.stages} <= {1, 2, 3}
        assert plan.prediction is not None
        answer = mesh.generate(PROMPT, sampling=SamplingParams(temperature=0), max_tokens=20).wait()
    who_measured = [worker.name for worker in workers if (tmp_path / worker.name / "benchmarks").exists()]
    assert len(who_measured) == 1  # they share a device
    reference = Reference(model, n_ctx=N_CTX, n_batch=64)
    expected = reference.greedy_tokens(PROMPT, 20)
    reference.close()
    assert [token.id for token in answer.tokens][: len(expected)] == expected
