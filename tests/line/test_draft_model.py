# SPDX-License-Identifier: MIT
"""A draft model, on the coordinator's machine or on a worker: whatever it guesses, the tokens are llama.cpp's own."""

import contextlib
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator import LineChange, LineEvent, LoadEvent, ModelError, PlanError, SamplingParams
from tests.line.conftest import N_BATCH, N_CTX, StartWorker, open_mesh
from tests.line.near_ties import check_same
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference
from tests.models import write_model
from tests.ports import own_port

GREEDY = SamplingParams(temperature=0, logprobs=True, n_top_logprobs=10)

_FORWARDER = Path(__file__).parents[2] / "scripts" / "benchmark" / "delay.py"
_STORY = "Once upon a time there was a llama named Maya. She walked to the river and sang a little song. "


@pytest.fixture(scope="module")
def nonsense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights."""
    return write_model(tmp_path_factory.mktemp("nonsense") / "model.gguf", "llama", with_text=True)


@pytest.fixture(scope="module")
def other_nonsense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same vocabulary, and another opinion on everything."""
    return write_model(tmp_path_factory.mktemp("other") / "other.gguf", "llama", n_layer=2, with_text=True, seed=7)


@pytest.fixture
def far_away(workers: list[WorkerProcess]) -> Iterator[list[str]]:
    """Addresses of the three workers, at which every byte takes 3 ms to or from them."""
    forwarders, addresses = [], []
    try:
        for worker in workers:
            near, far = own_port(), worker.address.rpartition(":")[2]
            arguments = [str(_FORWARDER), "127.0.0.1", str(near), far, "3"]
            forwarders.append(subprocess.Popen([sys.executable, *arguments]))
            addresses.append(f"127.0.0.1:{near}")
        for address in addresses:
            wait_for(address)
        yield addresses
    finally:
        for forwarder in forwarders:
            forwarder.terminate()
            forwarder.wait(60)


def wait_for(address: str) -> None:
    host, _, port = address.rpartition(":")
    deadline_s = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port))).close()
            return
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.fixture(scope="module")
def nonsense_reference(nonsense: Path) -> Iterator[Reference]:
    """The first over llama-cpp-python alone."""
    reference = Reference(nonsense, n_ctx=N_CTX, n_batch=N_BATCH)
    yield reference
    reference.close()


@pytest.mark.parametrize(("n_stages", "draft_on"), [(1, None), (3, None), (3, "cellar")])
def test_a_model_that_drafts_for_itself_saves_trips_and_changes_nothing(
    workers: list[WorkerProcess], reference: Reference, n_stages: int, draft_on: str | None
) -> None:
    told: list[LoadEvent] = []
    with open_mesh(workers[:n_stages], draft="demo", draft_on=draft_on, on_progress=told.append) as mesh:
        for _ in range(2):
            generation = mesh.generate(_STORY, sampling=GREEDY, max_tokens=60).wait()
            expected = reference.greedy_tokens(generation.prompt_tokens, 60)
            check_same(reference, generation.prompt_tokens, expected, generation.tokens)
            # All of them would be right, but one that comes too late for a trip is not waited for.
            assert generation.usage.guessed_tokens > 5  # those that come in time
        for seed in (1, 2):
            sampling = SamplingParams(temperature=0.8, seed=seed, logprobs=True, n_top_logprobs=10)
            drawn = mesh.generate(_STORY, sampling=sampling, max_tokens=40).wait()
            expected = reference.sampled_tokens(drawn.prompt_tokens, 40, seed)
            check_same(reference, drawn.prompt_tokens, expected, drawn.tokens, greedy=False)
    place = draft_on or "this machine"
    assert any("the draft model takes" in event.message and place in event.message for event in told)


def test_what_wrong_guesses_make_void_is_dropped_and_whoever_is_called_off_the_others_get_their_tokens(
    far_away: list[str], reference: Reference
) -> None:
    with open_mesh([], workers=far_away, draft="demo") as mesh:
        for seed in range(6):
            sampling = SamplingParams(temperature=0.8, seed=seed, logprobs=True, n_top_logprobs=10)
            drawn = mesh.generate(_STORY, sampling=sampling, max_tokens=40)
            other = mesh.generate(_STORY + "Then", sampling=replace(sampling, temperature=1.5), max_tokens=200)
            for number, _ in enumerate(other):
                if number == 5 * seed:
                    other.cancel()
                    break
            drawn.wait()
            expected = reference.sampled_tokens(drawn.prompt_tokens, 40, seed)
            check_same(reference, drawn.prompt_tokens, expected, drawn.tokens, greedy=False)
        assert mesh._mesh.lines[0].session.n_dropped > 0


def test_a_line_goes_on_without_the_guesses_of_a_worker_that_was_lost_and_with_them_when_it_is_back(
    workers: list[WorkerProcess], start_worker: StartWorker, reference: Reference
) -> None:
    events: queue.SimpleQueue[LineEvent] = queue.SimpleQueue()
    drafting = start_worker("drafts")
    addresses = [worker.address for worker in (*workers[:2], drafting)]
    alone = {"workers": addresses, "draft": "demo", "draft_on": "drafts", "exclude": ["drafts"]}
    with open_mesh([], **alone, on_event=events.put) as mesh:
        assert "drafts" not in mesh.plan.ranges
        prompt = mesh.prompt_tokens(_STORY)
        expected = reference.greedy_tokens(prompt, 60)

        def generated() -> int:
            generation = mesh.generate(_STORY, sampling=GREEDY, max_tokens=60).wait()
            check_same(reference, prompt, expected, generation.tokens)
            return generation.usage.guessed_tokens

        assert generated() > 0
        drafting.kill()
        lost = events.get(timeout=60)
        assert (lost.change, lost.worker) == (LineChange.DRAFT_LOST, "drafts")
        assert generated() == 0
        start_worker("drafts", "--listen", drafting.address)
        assert events.get(timeout=60).change is LineChange.DRAFT_BACK
        assert generated() > 0


def test_a_draft_model_that_no_worker_can_run_is_refused(workers: list[WorkerProcess]) -> None:
    with pytest.raises(PlanError, match="no worker is named loft, which is to run the draft model; found: attic"):
        open_mesh(workers[:1], draft="demo", draft_on="loft")
    for option in ({"draft": "lookup"}, {"draft": "demo", "replicas": 2}, {"draft": "demo", "draft_threads": 2}):
        with pytest.raises(PlanError, match="draft_on"):
            open_mesh(workers[:1], draft_on="attic", **option)


def test_a_model_that_guesses_wrong_costs_nothing_but_time(
    workers: list[WorkerProcess], nonsense: Path, other_nonsense: Path, nonsense_reference: Reference
) -> None:
    prompts = [[1, *range(start, start + 9)] for start in (10, 40, 70)]
    few_words = tuple((token, 30.0) for token in (20, 21, 22))
    drawn: list[list[int]] = []
    n_guessed = 0
    for draft in (other_nonsense, "off"):
        with open_mesh(workers[:3], nonsense, draft=draft) as mesh:
            generations = [mesh.generate(prompt, sampling=GREEDY, max_tokens=60) for prompt in prompts]
            for prompt, generation in zip(prompts, generations, strict=True):
                expected = nonsense_reference.greedy_tokens(prompt, 60)
                check_same(nonsense_reference, prompt, expected, generation.wait().tokens)
            sampling = SamplingParams(temperature=0.8, seed=3, logit_bias=few_words)
            generation = mesh.generate(prompts[0], sampling=sampling, max_tokens=80).wait()
            drawn.append([token.id for token in generation.tokens])
            n_guessed += generation.usage.guessed_tokens
    assert len(set(drawn[1])) > 1
    # Drawn with the same random numbers, so by the same distribution.
    assert drawn[0] == drawn[1]
    assert n_guessed < 40


def test_a_model_with_another_vocabulary_or_for_a_recurrent_one_is_refused(
    workers: list[WorkerProcess], nonsense: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"cannot draft for demo: its vocabulary .*; take a smaller model"):
        open_mesh(workers[:1], draft=nonsense)
    mamba = write_model(tmp_path / "mamba.gguf", "mamba", with_text=True)
    with pytest.raises(ModelError, match="recurrent layers"):
        open_mesh(workers[:1], mamba, draft=nonsense)
    with pytest.raises(ModelError, match="recurrent layers"):
        open_mesh(workers[:1], nonsense, draft=mamba)
