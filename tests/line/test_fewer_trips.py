# SPDX-License-Identifier: MIT
"""What is not computed twice, and what is computed before it is known: prefixes that are cached, tokens that are
guessed. The text is the same without."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator import Mesh, SamplingParams
from tests.line.conftest import N_BATCH, N_CTX, open_mesh
from tests.line.near_ties import check_same
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference
from tests.models import write_model

GREEDY = SamplingParams(temperature=0, logprobs=True, n_top_logprobs=10)

_STORY = "Once upon a time there was a llama named Maya. She walked to the river and sang a little song. "
_LONG = _STORY + "One day a boy named Tom came to the river too, and he had a red ball."


def _check(reference: Reference, mesh: Mesh, prompt: str, n_tokens: int = 30) -> int:
    """Answers a prompt as llama.cpp alone does; gives how many of its tokens were cached."""
    generation = mesh.generate(prompt, sampling=GREEDY, max_tokens=n_tokens).wait()
    expected = reference.greedy_tokens(generation.prompt_tokens, n_tokens)
    check_same(reference, generation.prompt_tokens, expected, generation.tokens)
    return generation.usage.cached_tokens


@pytest.mark.parametrize("n_stages", [1, 3])
def test_a_prompt_that_goes_on_where_another_ended_computes_the_rest_alone(
    workers: list[WorkerProcess], reference: Reference, n_stages: int
) -> None:
    with open_mesh(workers[:n_stages]) as mesh:
        assert _check(reference, mesh, _LONG) == 0
        whole = mesh.generate(_LONG, sampling=GREEDY, max_tokens=20).wait()
        assert whole.usage.cached_tokens == whole.usage.prompt_tokens - 1
        assert _check(reference, mesh, _LONG + whole.text + " Then Maya said:") > whole.usage.prompt_tokens
        # Another end: what went beyond the common beginning is forgotten.
        assert 0 < _check(reference, mesh, _STORY + "But the river was dry, and she was sad.") < 60
        assert _check(reference, mesh, _LONG) > 0


def test_requests_at_once_with_the_same_beginning_compute_it_once(
    workers: list[WorkerProcess], reference: Reference
) -> None:
    with open_mesh(workers[:2], parallel=4) as mesh:
        prompts = [_LONG + end for end in (" Tom said:", " Maya was glad.", " They played.", " The ball fell.")]
        generations = [mesh.generate(prompt, sampling=GREEDY, max_tokens=20) for prompt in prompts]
        for generation in generations:
            generation.wait()
            expected = reference.greedy_tokens(generation.prompt_tokens, 20)
            check_same(reference, generation.prompt_tokens, expected, generation.tokens)
        shared = min(generation.usage.cached_tokens for generation in generations[1:])
        assert generations[0].usage.cached_tokens == 0
        assert shared > 30


def test_who_does_not_want_the_cache_computes_everything(mesh: Mesh, reference: Reference) -> None:
    _check(reference, mesh, _LONG)
    generation = mesh.generate(_LONG, sampling=GREEDY, max_tokens=8, cache_prompt=False).wait()
    assert generation.usage.cached_tokens == 0
    assert [token.id for token in generation.tokens] == reference.greedy_tokens(generation.prompt_tokens, 8)


@pytest.mark.parametrize("kind", ["mamba", "granitehybrid"])
def test_a_recurrent_model_goes_on_from_exactly_where_a_sequence_ended(
    workers: list[WorkerProcess], tmp_path: Path, kind: str
) -> None:
    model = write_model(tmp_path / f"{kind}.gguf", kind, with_text=True)
    prompt = list(range(5, 45))
    with open_mesh(workers[:2], model) as mesh:
        first = mesh.generate(prompt, sampling=GREEDY, max_tokens=6).wait()
        turn = [*prompt, *(token.id for token in first.tokens), 7, 8]
        again = mesh.generate(turn, sampling=GREEDY, max_tokens=6).wait()
        # The last token sampled was never computed.
        assert again.usage.cached_tokens == len(prompt) + 5
        other = mesh.generate([*prompt[:30], 9, 9], sampling=GREEDY, max_tokens=6).wait()
        assert other.usage.cached_tokens == 0
    with open_mesh(workers[:2], model) as mesh:
        plain = mesh.generate(turn, sampling=GREEDY, max_tokens=6, cache_prompt=False).wait()
        for ours, theirs in zip(again.tokens, plain.tokens, strict=True):
            if ours.id != theirs.id:
                break
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-2)


@pytest.fixture(scope="module")
def circling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights: what it says goes round in circles."""
    return write_model(tmp_path_factory.mktemp("circling") / "model.gguf", "llama", with_text=True)


@pytest.fixture(scope="module")
def circling_reference(circling: Path) -> Iterator[Reference]:
    """The same over llama-cpp-python alone."""
    reference = Reference(circling, n_ctx=N_CTX, n_batch=N_BATCH)
    yield reference
    reference.close()


_STARTS = [[1, *range(start, start + 9)] for start in (10, 40, 70)]


@pytest.mark.parametrize("n_stages", [1, 2, 3])
def test_guessed_tokens_are_those_that_llama_cpp_samples(
    workers: list[WorkerProcess], circling: Path, circling_reference: Reference, n_stages: int
) -> None:
    n_guessed = 0
    with open_mesh(workers[:n_stages], circling, draft="lookup") as mesh:
        for prompt in _STARTS:
            generation = mesh.generate(prompt, sampling=GREEDY, max_tokens=100).wait()
            expected = circling_reference.greedy_tokens(prompt, 100)
            check_same(circling_reference, prompt, expected, generation.tokens)
            n_guessed += generation.usage.guessed_tokens
    assert n_guessed > 10


def test_with_a_temperature_guesses_change_nothing_but_the_trips(workers: list[WorkerProcess], circling: Path) -> None:
    """Each token is drawn as it is without guesses, from the same random numbers; a guess only meets it or not."""
    few_words = tuple((token, 30.0) for token in (20, 21, 22))
    texts: dict[str, list[list[int]]] = {"off": [], "lookup": []}
    n_guessed = 0
    for draft, own in texts.items():
        with open_mesh(workers[:2], circling, draft=draft) as mesh:
            for seed, prompt in enumerate(_STARTS):
                sampling = SamplingParams(temperature=0.8, seed=seed, logit_bias=few_words)
                generation = mesh.generate(prompt, sampling=sampling, max_tokens=80).wait()
                own.append([token.id for token in generation.tokens])
                n_guessed += generation.usage.guessed_tokens
    assert len(set(texts["off"][0])) > 1
    assert texts["lookup"] == texts["off"]
    assert n_guessed > 10


def test_a_grammar_holds_for_guessed_tokens_too(workers: list[WorkerProcess]) -> None:
    sampling = SamplingParams(temperature=0, grammar='root ::= ("ab " | "cd ")+')
    texts = []
    for draft in ("off", "lookup"):
        with open_mesh(workers[:2], draft=draft) as mesh:
            generation = mesh.generate("Say ab", sampling=sampling, max_tokens=40).wait()
            texts.append(generation.text)
    assert texts[0] == texts[1]
    assert generation.usage.guessed_tokens > 0


def test_streams_that_guess_do_not_mix(
    workers: list[WorkerProcess], circling: Path, circling_reference: Reference
) -> None:
    with open_mesh(workers[:3], circling, parallel=3, draft="lookup") as mesh:
        generations = [mesh.generate(prompt, sampling=GREEDY, max_tokens=100) for prompt in _STARTS]
        for generation in generations:
            generation.wait()
            expected = circling_reference.greedy_tokens(generation.prompt_tokens, 100)
            check_same(circling_reference, generation.prompt_tokens, expected, generation.tokens)
