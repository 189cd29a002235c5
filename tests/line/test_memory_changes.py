# SPDX-License-Identifier: MIT
"""Memory that was free when the plan was made and is not when the stages are to be loaded: a game was started."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordinator import Distribution, DoesNotFitError, LoadEvent, LoadPhase, Mesh, SamplingParams
from tests.line.conftest import StartWorker
from tests.line.memory import MIB
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference
from tests.model_kinds import Size
from tests.models import write_model

PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 layers of 14 MiB: where eight do not fit any more, two do with the margin of a plan."""
    path = tmp_path_factory.mktemp("changes") / "model.gguf"
    return write_model(path, "llama", size=Size(16, n_embd=640), with_text=True)


@pytest.fixture
def free(tmp_path: Path) -> Path:
    """How much the shrinking worker has."""
    path = tmp_path / "free"
    path.write_text(str(300 * MIB), encoding="ascii")
    return path


@pytest.fixture
def workers(start_worker: StartWorker, free: Path) -> Iterator[list[WorkerProcess]]:
    """One that keeps what it has, and one whose memory the test takes away."""
    shrinking = WorkerProcess("gamer", module=["tests.line.shrinking_worker", str(free)])
    yield [start_worker("steady", "--memory", str(400 * MIB)), shrinking]
    shrinking.stop()


def _open(model: Path, workers: list[WorkerProcess], on_progress: Callable[[LoadEvent], None]) -> Mesh:
    return Mesh.open(
        model,
        workers=[worker.address for worker in workers],
        discover=False,
        distribution=Distribution.ON,
        context=256,
        parallel=1,
        on_progress=on_progress,
    )


def _shrink_at_load(free: Path, *sizes: int) -> tuple[Callable[[LoadEvent], None], list[LoadEvent]]:
    """What lets the worker have less each time that it is about to load, and all events so far."""
    left, events = list(sizes), list[LoadEvent]()

    def shrink(event: LoadEvent) -> None:
        events.append(event)
        if event.worker == "gamer" and event.phase is LoadPhase.LOADING and event.fraction == 0 and left:
            free.write_text(str(left.pop(0)), encoding="ascii")

    return shrink, events


def test_memory_that_is_gone_at_load_leads_to_another_plan(
    model: Path, workers: list[WorkerProcess], free: Path
) -> None:
    on_progress, events = _shrink_at_load(free, 40 * MIB)
    with _open(model, workers, on_progress) as mesh:
        assert [stage.worker for stage in mesh.plan.stages] == ["steady"]
        (note,) = (note for note in mesh.plan.notes if note.startswith("planned anew"))
        assert "gamer: layers" in note
        assert note in [event.message for event in events]
        tokens = mesh.generate(PROMPT, sampling=SamplingParams(temperature=0), max_tokens=5).wait().tokens
    reference = Reference(model, n_ctx=256, n_batch=256)
    assert [token.id for token in tokens] == reference.greedy_tokens(PROMPT, 5)
    reference.close()


def test_memory_that_shrinks_again_and_again_ends_in_a_sentence(
    model: Path, workers: list[WorkerProcess], free: Path
) -> None:
    on_progress, _ = _shrink_at_load(free, 105 * MIB, 10 * MIB)
    with pytest.raises(DoesNotFitError, match=r"gamer: layers .* do not fit: they need .* 10\.0 MiB is free"):
        _open(model, workers, on_progress)
    free.write_text(str(300 * MIB), encoding="ascii")
    with _open(model, workers, lambda _: None) as mesh:
        assert len(mesh.plan.stages) == 2
