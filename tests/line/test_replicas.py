# SPDX-License-Identifier: MIT
"""A model over several lines of workers: each a whole, requests to the one with the least to do."""

import contextlib
from collections.abc import Iterator

import pytest

from coordinator import Distribution, FinishReason, LayerRange, Mesh, PlanError, SamplingParams
from tests.line.conftest import N_CTX, StartWorker, open_mesh
from tests.line.endless_streams import endless
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference

PROMPT = "Once, a llama named"
N_TOKENS = 24
FOUR = ("a", "b", "c", "d")
GREEDY = SamplingParams(temperature=0)


@pytest.fixture(scope="module")
def two_lines() -> Iterator[Mesh]:
    """Two lines of two workers, which nobody harms."""
    with contextlib.ExitStack() as stack:
        four = [WorkerProcess(name) for name in FOUR]
        for worker in four:
            stack.callback(worker.stop)
        yield stack.enter_context(_open_two_lines(four))


def _open_two_lines(four: list[WorkerProcess]) -> Mesh:
    """Four slots each."""
    return Mesh.open(
        "demo",
        workers=[worker.address for worker in four],
        discover=False,
        context=N_CTX,
        parallel=4,
        distribution=Distribution.ON,
        replicas=2,
    )


def test_each_line_says_what_llama_cpp_says_alone(two_lines: Mesh, reference: Reference) -> None:
    assert [len(plan.stages) for plan in two_lines.plans] == [2, 2]
    assert len({stage.worker for plan in two_lines.plans for stage in plan.stages}) == 4
    running = [two_lines.generate(PROMPT, sampling=GREEDY, max_tokens=N_TOKENS) for _ in range(2)]
    assert [line.session.n_running for line in two_lines._mesh.lines] == [1, 1]
    alone = reference.text(PROMPT, temperature=0, max_tokens=N_TOKENS)
    assert [generation.wait().text for generation in running] == [alone, alone]


def test_requests_are_spread_over_the_lines(two_lines: Mesh) -> None:
    assert two_lines.parallel == 8
    running = [two_lines.generate(PROMPT, sampling=endless(two_lines)) for _ in range(8)]
    for generation in running:
        next(generation)
    assert [line.session.n_running for line in two_lines._mesh.lines] == [4, 4]
    for generation in running:
        generation.cancel()


def test_a_line_that_loses_a_worker_goes_on_with_those_that_the_other_does_not_use(
    start_worker: StartWorker,
) -> None:
    four = [start_worker(name) for name in FOUR]
    with _open_two_lines(four) as two_lines:
        lost = two_lines.plans[0].stages[0].worker
        others = {stage.worker for stage in two_lines.plans[1].stages}
        hit, other = (two_lines.generate(PROMPT, sampling=endless(two_lines)) for _ in range(2))
        next(hit)
        next(worker for worker in four if worker.name == lost).kill()
        assert hit.wait().finish_reason is FinishReason.LENGTH
        assert not others & {stage.worker for stage in two_lines.plans[0].stages}
        assert other.wait().finish_reason is FinishReason.LENGTH
        assert two_lines.error is None
        after = [two_lines.generate(PROMPT, sampling=GREEDY, max_tokens=3) for _ in range(4)]
        assert [generation.wait().usage.completion_tokens for generation in after] == [3] * 4


def test_layers_by_hand_are_for_one_line(workers: list[WorkerProcess]) -> None:
    with pytest.raises(PlanError, match="layer ranges by hand are for one line"):
        Mesh.open("demo", workers=[workers[0].address], discover=False, layer_ranges=[LayerRange(0, 8)], replicas=2)


def test_more_lines_than_workers_are_refused(workers: list[WorkerProcess]) -> None:
    with pytest.raises(PlanError, match="4 lines need 4 workers or more, and 3 can take part"):
        open_mesh(workers, replicas=4)
