# SPDX-License-Identifier: MIT
"""A draft model on the coordinator's machine: whatever it guesses, the tokens are llama.cpp's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator import LoadEvent, ModelError, SamplingParams
from tests.line.conftest import N_BATCH, N_CTX, open_mesh
from tests.line.near_ties import check_same
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference
from tests.models import write_model

GREEDY = SamplingParams(temperature=0, logprobs=True, n_top_logprobs=10)

_STORY = "Once upon a time there was a llama named Maya. She walked to the river and sang a little song. "


@pytest.fixture(scope="module")
def nonsense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights."""
    return write_model(tmp_path_factory.mktemp("nonsense") / "model.gguf", "llama", with_text=True)


@pytest.fixture(scope="module")
def other_nonsense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same vocabulary, and another opinion on everything."""
    return write_model(tmp_path_factory.mktemp("other") / "other.gguf", "llama", n_layer=2, with_text=True, seed=7)


@pytest.fixture(scope="module")
def nonsense_reference(nonsense: Path) -> Iterator[Reference]:
    """The first over llama-cpp-python alone."""
    reference = Reference(nonsense, n_ctx=N_CTX, n_batch=N_BATCH)
    yield reference
    reference.close()


@pytest.mark.parametrize("n_stages", [1, 3])
def test_a_model_that_drafts_for_itself_saves_trips_and_changes_nothing(
    workers: list[WorkerProcess], reference: Reference, n_stages: int
) -> None:
    told: list[LoadEvent] = []
    with open_mesh(workers[:n_stages], draft="demo", on_progress=told.append) as mesh:
        for _ in range(2):
            generation = mesh.generate(_STORY, sampling=GREEDY, max_tokens=60).wait()
            expected = reference.greedy_tokens(generation.prompt_tokens, 60)
            check_same(reference, generation.prompt_tokens, expected, generation.tokens)
            # All of them would be right, but one that comes too late for a trip is not waited for.
            assert generation.usage.guessed_tokens > len(expected) // 3
        for seed in (1, 2):
            sampling = SamplingParams(temperature=0.8, seed=seed, logprobs=True, n_top_logprobs=10)
            drawn = mesh.generate(_STORY, sampling=sampling, max_tokens=40).wait()
            expected = reference.sampled_tokens(drawn.prompt_tokens, 40, seed)
            check_same(reference, drawn.prompt_tokens, expected, drawn.tokens, greedy=False)
    assert any("the draft model takes" in event.message for event in told)


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
