# SPDX-License-Identifier: MIT
"""The stream goes on when a worker dies: the client sees a pause, and the tokens that it would have got."""

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from coordinator import (
    ClosedError,
    Generation,
    LineChange,
    LineEvent,
    Mesh,
    PoisonError,
    SamplingParams,
    WorkerLostError,
    WorkerSilentError,
    grammar_of,
)
from tests.line.conftest import StartWorker, open_mesh
from tests.line.endless_streams import endless, ends_of
from tests.line.near_ties import check_same
from tests.line.poisoned_worker import SLOW_S
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference

PROMPTS = ["Once upon a time", "Maya the llama", "The river was", "One day"]
N_TOKENS = 120
"""As many as take longer than it takes to kill somebody."""

_POISON, _SLOW = 400, 401
"""Tokens that none of these stories has."""

_SCHEMA = {"type": "array", "items": {"type": "string", "minLength": 9, "maxLength": 40}, "minItems": 1000}
_GRAMMAR = 'root ::= ("la " | "li " | "lu ")+'


@pytest.fixture
def team(start_worker: StartWorker) -> list[WorkerProcess]:
    """Three for the line, and a spare."""
    return _started(start_worker, "one", "two", "three", "spare")


@pytest.fixture
def events() -> list[LineEvent]:
    """What the mesh told."""
    return []


@pytest.fixture
def pair(start_worker: StartWorker) -> list[WorkerProcess]:
    """Two for the line; one of them can hold it all."""
    return _started(start_worker, "one", "two")


def _started(start_worker: StartWorker, *names: str) -> list[WorkerProcess]:
    """At the same time."""
    with ThreadPoolExecutor(len(names)) as threads:
        return list(threads.map(start_worker, names))


def _begin(mesh: Mesh, *samplings: SamplingParams, n_tokens: int = N_TOKENS) -> list[Generation]:
    """A stream for each prompt, with these samplings in turn."""
    return [
        mesh.generate(prompt, sampling=sampling, max_tokens=n_tokens, cache_prompt=False)
        for prompt, sampling in zip(PROMPTS, itertools.cycle(samplings), strict=False)
    ]


def _ids(generations: list[Generation]) -> list[list[int]]:
    return [[token.id for token in generation.wait().tokens] for generation in generations]


def _holder_of(mesh: Mesh, team: list[WorkerProcess], stage: int) -> WorkerProcess:
    name = mesh.plan.stages[stage].worker
    return next(worker for worker in team if worker.name == name)


def _disturb(mesh: Mesh, reference: Reference, disturb: Callable[[], None], *samplings: SamplingParams) -> None:
    """Streams that are disturbed are the same as those that were not."""
    undisturbed = _ids(_begin(mesh, *samplings))
    generations = _begin(mesh, *samplings)
    for _ in range(10):
        next(generations[0])
    disturb()
    for generation, expected, sampling in zip(generations, undisturbed, itertools.cycle(samplings), strict=False):
        prompt, tokens = generation.wait().prompt_tokens, generation.tokens
        check_same(reference, prompt, expected, tokens, greedy=sampling.temperature == 0, forbidden=ends_of(mesh))


def test_streams_go_on_while_one_worker_after_another_dies(
    team: list[WorkerProcess], events: list[LineEvent], reference: Reference
) -> None:
    """The middle one, whose place the spare takes; then the first, then the last: one is left at last."""
    with open_mesh(team, max_stages=3, on_event=events.append) as mesh:
        before, followed = mesh.plan, mesh.events()
        for n_left, victim in ((3, 1), (2, 0), (1, -1)):
            lost = _holder_of(mesh, team, victim)
            _disturb(mesh, reference, lost.kill, endless(mesh))
            assert len(mesh.plan.stages) == n_left
            assert lost.name not in {stage.worker for stage in mesh.plan.stages}
            told = events[-1]
            assert (told.change, told.worker, told.n_streams) == (LineChange.RESUMED, lost.name, len(PROMPTS))
            assert told.message.startswith(f"worker {lost.name} was lost: going on with ")
            if n_left == 3:  # the other two kept what they had
                assert [stage.layers for stage in mesh.plan.stages] == [stage.layers for stage in before.stages]
        assert [recovered.n_streams for recovered in mesh.recovered] == [4, 4, 4]
    assert list(followed) == events


def test_random_state_penalties_and_grammar_go_on_where_they_were(
    pair: list[WorkerProcess], reference: Reference
) -> None:
    with open_mesh(pair) as mesh:
        drawn = endless(mesh, temperature=0.8, seed=7, repeat_penalty=1.2, frequency_penalty=0.1, presence_penalty=0.1)
        ruled = endless(mesh, temperature=1.0, seed=3, grammar=_GRAMMAR)
        valid = endless(mesh, temperature=1.0, seed=5, grammar=grammar_of(_SCHEMA))
        _disturb(mesh, reference, _holder_of(mesh, pair, -1).kill, drawn, ruled, valid)


def test_two_that_die_shortly_after_each_other_and_guesses_in_flight(
    team: list[WorkerProcess], reference: Reference
) -> None:
    with open_mesh(team, max_stages=3, draft="lookup") as mesh:

        def disturb() -> None:
            _holder_of(mesh, team, 0).kill()
            time.sleep(0.1)
            team[3].kill()

        _disturb(mesh, reference, disturb, endless(mesh))
        assert len(mesh.plan.stages) == 2


def test_a_worker_that_freezes_is_noticed_and_done_without(pair: list[WorkerProcess], reference: Reference) -> None:
    with open_mesh(pair, worker_timeout=1.5) as mesh:
        frozen = _holder_of(mesh, pair, 0)
        _disturb(mesh, reference, frozen.freeze, endless(mesh))
        (recovered,) = mesh.recovered
        assert isinstance(recovered.reason, WorkerSilentError)
        assert recovered.reason.worker == frozen.name
        assert "it was silent for 1.5 s" in str(recovered.reason)


def test_requests_wait_for_workers_to_return(
    start_worker: StartWorker, pair: list[WorkerProcess], events: list[LineEvent], reference: Reference
) -> None:
    with open_mesh(pair, on_event=events.append, parallel=2) as mesh:

        def kill_both_and_start_one() -> None:
            for worker in pair:
                worker.kill()
                worker.stop()
            cancelled, late = _begin(mesh, endless(mesh), n_tokens=3)[:2]
            cancelled.cancel()
            start_worker("again", "--listen", pair[0].address)
            assert late.wait().usage.completion_tokens == 3

        _disturb(mesh, reference, kill_both_and_start_one, endless(mesh))
        assert [stage.worker for stage in mesh.plan.stages] == ["again"]
        assert LineChange.WAITING in {event.change for event in events}


@pytest.mark.slow
def test_requests_fail_when_no_worker_returns_and_are_served_again_when_one_does(
    start_worker: StartWorker, events: list[LineEvent]
) -> None:
    worker = start_worker("one")
    with open_mesh([worker], on_event=events.append, recovery_timeout=1.0) as mesh:
        doomed = _begin(mesh, endless(mesh), n_tokens=400)[0]
        next(doomed)
        worker.kill()
        worker.stop()
        with pytest.raises(WorkerLostError, match="and 1 s later there was no other"):
            doomed.wait()
        with pytest.raises(WorkerLostError):
            mesh.generate(PROMPTS[0])
        assert events[-1].change is LineChange.GAVE_UP
        start_worker("again", "--listen", worker.address)
        deadline_s = time.monotonic() + 60
        while mesh.error is not None and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert mesh.generate(PROMPTS[0], max_tokens=3).wait().usage.completion_tokens == 3


@pytest.fixture
def odd_workers() -> Iterator[list[WorkerProcess]]:
    """Two that fail at one token, and take long for another."""
    module = ("tests.line.poisoned_worker", str(_POISON), str(_SLOW))
    workers = [WorkerProcess(name, module=module) for name in ("one", "two")]
    yield workers
    for worker in workers:
        worker.stop()


def test_a_request_that_breaks_every_line_fails_and_those_beside_it_go_on(
    odd_workers: list[WorkerProcess], reference: Reference
) -> None:
    with open_mesh(odd_workers, worker_timeout=1.5) as mesh:
        # No false alarm: a worker that computes for longer than it may be silent.
        slow = mesh.generate([*mesh.prompt_tokens(PROMPTS[0]), _SLOW], max_tokens=1).wait()
        assert (slow.usage.prefill_s > 2 * SLOW_S, mesh.recovered) == (True, ())

        others = _begin(mesh, endless(mesh))[:3]
        next(others[2])
        poison = mesh.generate([*mesh.prompt_tokens(PROMPTS[0]), _POISON], max_tokens=5)
        with pytest.raises(PoisonError) as given_up:
            poison.wait()
        # Three of its own; where the machine stands still for a second, one may be taken for a link's, of which it has
        # more.
        n_breaks = given_up.value.n_breaks
        assert n_breaks >= 3
        for generation in others:
            expected = reference.greedy_tokens(generation.wait().prompt_tokens, N_TOKENS, forbidden=ends_of(mesh))
            check_same(reference, generation.prompt_tokens, expected, generation.tokens)
        assert len(mesh.recovered) >= n_breaks
        assert any(f"token {_POISON} cannot be computed" in str(recovered.reason) for recovered in mesh.recovered)
        assert mesh.error is None


def test_a_mesh_that_waits_for_workers_can_be_closed(start_worker: StartWorker) -> None:
    worker = start_worker("one")
    with open_mesh([worker]) as mesh:
        request = mesh.generate(PROMPTS[0], sampling=endless(mesh))
        next(request)
        worker.kill()
        time.sleep(1)
        assert (mesh.error, mesh.n_running) == (None, 1)
    with pytest.raises(ClosedError):
        request.wait()
