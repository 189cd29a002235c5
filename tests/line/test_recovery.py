# SPDX-License-Identifier: MIT
"""The stream goes on when a worker dies: the client sees a pause, and the tokens that it would have got."""

import time
from collections.abc import Callable, Iterator

import pytest

from coordinator import Generation, LineChange, LineEvent, Mesh, PoisonError, SamplingParams, WorkerLostError
from tests.line.conftest import StartWorker, open_mesh
from tests.line.near_ties import check_same
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference

PROMPTS = ["Once upon a time", "Maya the llama", "The river was", "One day"]
N_TOKENS = 120
"""As many as take longer than it takes to kill somebody."""

_POISON = 400
"""A token that no story has."""

_GRAMMAR = 'root ::= ("la " | "li " | "lu ")+'


@pytest.fixture
def team(start_worker: StartWorker) -> list[WorkerProcess]:
    """Three for the line, and a spare."""
    return [start_worker(name) for name in ("one", "two", "three", "spare")]


@pytest.fixture
def events() -> list[LineEvent]:
    """What the mesh told."""
    return []


@pytest.fixture
def mesh(team: list[WorkerProcess], events: list[LineEvent]) -> Iterator[Mesh]:
    """A line of three."""
    with open_mesh(team, max_stages=3, on_event=events.append, worker_timeout=1.5) as mesh:
        yield mesh


def _ends(mesh: Mesh) -> list[int]:
    vocabulary = mesh.vocabulary
    return [token for token in range(vocabulary.n_tokens) if vocabulary.is_end_of_generation(token)]


def endless(mesh: Mesh, **parameters: object) -> SamplingParams:
    """No end before `max_tokens`."""
    bias = tuple((token, float("-inf")) for token in _ends(mesh))
    chosen: dict[str, object] = {"temperature": 0, "logprobs": True, "n_top_logprobs": 10, **parameters}
    return SamplingParams(logit_bias=bias, **chosen)  # type: ignore[arg-type]


def _begin(mesh: Mesh, sampling: SamplingParams, n_tokens: int = N_TOKENS) -> list[Generation]:
    return [mesh.generate(prompt, sampling=sampling, max_tokens=n_tokens, cache_prompt=False) for prompt in PROMPTS]


def _ids(generations: list[Generation]) -> list[list[int]]:
    return [[token.id for token in generation.wait().tokens] for generation in generations]


def _holder_of(mesh: Mesh, team: list[WorkerProcess], stage: int) -> WorkerProcess:
    name = mesh.plan.stages[stage].worker
    return next(worker for worker in team if worker.name == name)


def _disturb(
    mesh: Mesh, reference: Reference, sampling: SamplingParams, disturb: Callable[[], None], *, greedy: bool = True
) -> None:
    """Streams that are disturbed are the same as those that were not."""
    undisturbed = _ids(_begin(mesh, sampling))
    generations = _begin(mesh, sampling)
    for _ in range(10):
        next(generations[0])
    disturb()
    for generation, expected in zip(generations, undisturbed, strict=True):
        generation.wait()
        prompt, tokens = generation.prompt_tokens, generation.tokens
        check_same(reference, prompt, expected, tokens, greedy=greedy, forbidden=_ends(mesh))


def test_streams_go_on_while_one_worker_after_another_dies(
    mesh: Mesh, team: list[WorkerProcess], events: list[LineEvent], reference: Reference
) -> None:
    """The middle one, whose place the spare takes; then the first, then the last: one is left at last."""
    before = mesh.plan
    for n_left, victim in ((3, 1), (2, 0), (1, -1)):
        lost = _holder_of(mesh, team, victim)
        _disturb(mesh, reference, endless(mesh), lost.kill)
        assert len(mesh.plan.stages) == n_left
        assert lost.name not in {stage.worker for stage in mesh.plan.stages}
        told = events[-1]
        assert (told.change, told.worker, told.n_streams) == (LineChange.RESUMED, lost.name, len(PROMPTS))
        assert told.message.startswith(f"worker {lost.name} was lost")
        if n_left == 3:  # the other two kept what they had
            assert [stage.layers for stage in mesh.plan.stages] == [stage.layers for stage in before.stages]
    assert [recovered.n_streams for recovered in mesh.recovered] == [4, 4, 4]


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 0.8, "seed": 7, "repeat_penalty": 1.2, "frequency_penalty": 0.1, "presence_penalty": 0.1},
        {"temperature": 1.0, "seed": 3, "grammar": _GRAMMAR},
    ],
)
def test_random_state_penalties_and_grammar_go_on_where_they_were(
    mesh: Mesh, team: list[WorkerProcess], reference: Reference, parameters: dict[str, object]
) -> None:
    _disturb(mesh, reference, endless(mesh, **parameters), _holder_of(mesh, team, -1).kill, greedy=False)


def test_two_that_die_shortly_after_each_other_and_guesses_in_flight(
    team: list[WorkerProcess], reference: Reference
) -> None:
    with open_mesh(team, max_stages=3, draft="lookup") as mesh:

        def disturb() -> None:
            _holder_of(mesh, team, 0).kill()
            time.sleep(0.1)
            team[3].kill()

        _disturb(mesh, reference, endless(mesh), disturb)
        assert len(mesh.plan.stages) == 2


def test_a_worker_that_freezes_is_noticed_and_done_without(
    mesh: Mesh, team: list[WorkerProcess], reference: Reference
) -> None:
    frozen = _holder_of(mesh, team, 1)
    _disturb(mesh, reference, endless(mesh), frozen.freeze)
    (recovered,) = mesh.recovered
    assert isinstance(recovered.reason, WorkerLostError)
    assert (recovered.reason.worker, "it was silent for 1.5 s" in str(recovered.reason)) == (frozen.name, True)


def test_requests_wait_for_workers_to_return_and_fail_when_none_does(
    start_worker: StartWorker, events: list[LineEvent], reference: Reference
) -> None:
    workers = [start_worker(name) for name in ("one", "two")]
    with open_mesh(workers, on_event=events.append, recovery_timeout=4.0, parallel=2) as mesh:

        def kill_all() -> None:
            for worker in workers:
                worker.kill()
                worker.stop()

        def kill_all_and_start_one() -> None:
            kill_all()
            cancelled, late = _begin(mesh, endless(mesh), 3)[:2]
            cancelled.cancel()
            workers[:] = [start_worker("again", "--listen", workers[0].address)]
            assert late.wait().usage.completion_tokens == 3

        _disturb(mesh, reference, endless(mesh), kill_all_and_start_one)
        assert [stage.worker for stage in mesh.plan.stages] == ["again"]
        assert LineChange.WAITING in {event.change for event in events}

        (doomed,) = _begin(mesh, endless(mesh), 400)[:1]
        next(doomed)
        kill_all()
        with pytest.raises(WorkerLostError, match="and 4 s later there was no other"):
            doomed.wait()
        with pytest.raises(WorkerLostError):
            mesh.generate(PROMPTS[0])
        assert events[-1].change is LineChange.GAVE_UP
        start_worker("third", "--listen", workers[0].address)
        deadline_s = time.monotonic() + 15
        while mesh.error is not None and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert mesh.generate(PROMPTS[0], max_tokens=3).wait().usage.completion_tokens == 3


def test_a_request_that_breaks_every_line_fails_and_those_beside_it_go_on(
    events: list[LineEvent], reference: Reference
) -> None:
    module = ("tests.line.poisoned_worker", str(_POISON))
    workers = [WorkerProcess(name, module=module) for name in ("one", "two")]
    try:
        with open_mesh(workers, on_event=events.append) as mesh:
            others = _begin(mesh, endless(mesh))[:3]
            next(others[2])
            poison = mesh.generate([*mesh.prompt_tokens(PROMPTS[0]), _POISON], max_tokens=5)
            with pytest.raises(PoisonError, match="because the line broke 3 times"):
                poison.wait()
            for generation in others:
                expected = reference.greedy_tokens(generation.wait().prompt_tokens, N_TOKENS, forbidden=_ends(mesh))
                check_same(reference, generation.prompt_tokens, expected, generation.tokens)
            assert len(mesh.recovered) == 3
            assert mesh.error is None
    finally:
        for worker in workers:
            worker.stop()
