# SPDX-License-Identifier: MIT
"""Workers, meshes and the reference (llama-cpp-python alone, on the same file) for the tests of this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordinator import Distribution, Mesh
from coordinator.models import resolve_model
from tests.line.near_ties import COUNT
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference

N_CTX = 512
N_BATCH = 64
"""Small, so that prompts of a hundred tokens are cut."""

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    """Starts workers that end with the test."""
    started: list[WorkerProcess] = []

    def start(name: str, *arguments: str, announced: bool = False) -> WorkerProcess:
        started.append(WorkerProcess(name, *arguments, announced=announced))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()


@pytest.fixture(scope="package")
def demo_path() -> Path:
    """The demo model's file."""
    return resolve_model("demo").path


@pytest.fixture(scope="package")
def reference(demo_path: Path) -> Iterator[Reference]:
    """llama-cpp-python, alone."""
    reference = Reference(demo_path, n_ctx=N_CTX, n_batch=N_BATCH)
    yield reference
    reference.close()


@pytest.fixture(scope="package")
def workers() -> Iterator[list[WorkerProcess]]:
    """Three workers that outlive the tests; those that harm workers start their own. They keep no stage: a line that
    one test left on them would be taken over by the next, where theirs is not much faster."""
    started: list[WorkerProcess] = []
    try:
        started += [WorkerProcess(name, "--keep-loaded", "0") for name in ("attic", "cellar", "desk")]
        yield started
    finally:
        for worker in started:
            worker.stop()


@pytest.fixture
def mesh(workers: list[WorkerProcess]) -> Iterator[Mesh]:
    """Two stages."""
    with open_mesh(workers[:2]) as mesh:
        yield mesh


def open_mesh(workers: list[WorkerProcess], model: str | Path = "demo", /, **options: object) -> Mesh:
    """A mesh over all of exactly these workers, with the reference's context and batch unless told otherwise."""
    chosen: dict[str, object] = {
        "workers": [worker.address for worker in workers],
        "discover": False,
        "context": N_CTX,
        "batch": N_BATCH,
        "distribution": Distribution.ON,
        **options,
    }
    return Mesh.open(model, **chosen)  # type: ignore[arg-type]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNT.compared:
        terminalreporter.write_line(
            f"same tokens under other batches: {COUNT.compared} compared, {COUNT.near_ties} ended at a near tie"
        )
