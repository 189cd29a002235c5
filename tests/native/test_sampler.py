# SPDX-License-Identifier: MIT
"""Sampling: the same tokens as llama-cpp-python samples, llama-server's parameters, grammars, and what is refused."""

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from native import (
    Batch,
    Context,
    ContextParams,
    FlashAttention,
    GrammarError,
    Model,
    Sampled,
    Sampler,
    SamplingError,
    SamplingParams,
    Vocabulary,
    check_params,
)

Logits = NDArray[np.float32]
_GREEDY = SamplingParams(temperature=0)


@pytest.fixture(scope="module")
def vocabulary(demo: Path) -> Iterator[Vocabulary]:
    with Vocabulary.load(demo) as vocabulary:
        yield vocabulary


class _Rows:
    """Logits to sample from, without a model: what a Context is to a Sampler."""

    def __init__(self, logits: Logits) -> None:
        self._logits = logits

    def logits(self, _row: int) -> Logits:
        return self._logits


def _sample(sampler: Sampler, logits: Logits) -> Sampled:
    return sampler.sample(cast(Context, _Rows(logits)), 0)


def _random_logits(vocabulary: Vocabulary, seed: int) -> Logits:
    return np.random.default_rng(seed).normal(0, 3, vocabulary.n_tokens).astype(np.float32)


def _likeliest(vocabulary: Vocabulary, *ranked: tuple[int, float]) -> Logits:
    logits = np.full(vocabulary.n_tokens, -20, np.float32)
    for token, logit in ranked:
        logits[token] = logit
    return logits


def _run(vocabulary: Vocabulary, params: SamplingParams, n_tokens: int, history: Sequence[int] = ()) -> list[int]:
    """Tokens from a fixed series of random rows, continued behind a history."""
    tokens = list(history)
    with Sampler(vocabulary, params, generated_tokens=history) as sampler:
        for i in range(len(history), n_tokens):
            tokens.append(_sample(sampler, _random_logits(vocabulary, i)).token)
            if vocabulary.is_end_of_generation(tokens[-1]):
                break
    return tokens


def _theirs(path: Path, prompt: list[int], n_tokens: int, params: SamplingParams) -> list[int]:
    """What llama-cpp-python's own high-level generator makes of a prompt."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        llm = llama_cpp.Llama(str(path), n_ctx=256, n_batch=64, n_ubatch=64, verbose=False, seed=params.seed)
    tokens = []
    generated = llm.generate(
        prompt, temp=params.temperature, top_k=params.top_k, top_p=params.top_p, min_p=params.min_p,
        repeat_penalty=params.repeat_penalty, frequency_penalty=params.frequency_penalty,
    )  # fmt: skip
    for token in generated:
        tokens.append(token)
        if len(tokens) == n_tokens:
            break
    generated.close()
    llm.close()
    return tokens


def _ours(path: Path, prompt: list[int], n_tokens: int, params: SamplingParams) -> list[int]:
    context_params = ContextParams(
        n_ctx_seq=256, n_seq_max=1, n_batch=64, n_ubatch=64, flash_attention=FlashAttention.OFF
    )
    tokens: list[int] = []
    batch, position = prompt, 0
    with (
        Model.load(path) as model,
        Context(model, context_params) as context,
        Sampler(model.vocabulary, params) as sampler,
    ):
        while len(tokens) < n_tokens:
            n = len(batch)
            positions = np.arange(position, position + n, dtype=np.int32)
            context.step(
                Batch(np.array(batch, np.int32), positions, np.zeros(n, np.int32), np.array([n - 1], np.int32))
            )
            tokens.append(sampler.sample(context, n - 1).token)
            batch, position = tokens[-1:], position + n
    return tokens


@pytest.mark.parametrize(
    "params",
    [
        _GREEDY,
        SamplingParams(temperature=0, repeat_penalty=1.3),
        SamplingParams(temperature=0.8, seed=42),
        SamplingParams(temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=7),
        SamplingParams(temperature=0.7, repeat_penalty=1.2, frequency_penalty=0.3, seed=123456789),
    ],
    ids=["greedy", "greedy with penalty", "seeded", "seeded, everything allowed", "seeded with penalties"],
)
def test_a_model_says_what_llama_cpp_python_makes_it_say(demo: Path, params: SamplingParams) -> None:
    with Vocabulary.load(demo) as vocabulary:
        prompt = vocabulary.tokenize("Once upon a time", add_special=True, parse_special=False)
    assert _ours(demo, prompt, 60, params) == _theirs(demo, prompt, 60, params)


def test_a_seed_decides_everything_and_another_seed_something(vocabulary: Vocabulary) -> None:
    one, same, other = (_run(vocabulary, SamplingParams(temperature=2, seed=seed), 40) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_a_temperature_near_zero_takes_the_likeliest(vocabulary: Vocabulary) -> None:
    assert _run(vocabulary, SamplingParams(temperature=1e-4, seed=3), 20) == _run(vocabulary, _GREEDY, 20)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(temperature=0, presence_penalty=0.2), 11),
        (SamplingParams(temperature=0, presence_penalty=0.05), 10),
        # Met twice: 2 * 0.06 is more than the difference of 0.1.
        (SamplingParams(temperature=0, frequency_penalty=0.06), 11),
        (SamplingParams(temperature=0, frequency_penalty=0.04), 10),
        (SamplingParams(temperature=0, repeat_penalty=1.1), 11),
        (SamplingParams(temperature=0, repeat_penalty=1.01), 10),
        # Only the last of them counts, and the last one is token 12.
        (SamplingParams(temperature=0, presence_penalty=0.2, repeat_last_n=1), 10),
        (SamplingParams(temperature=0, presence_penalty=0.2, repeat_last_n=0), 10),
        (SamplingParams(temperature=0, presence_penalty=0.2, repeat_last_n=-1), 11),
    ],
)
def test_penalties_count_the_prompt_within_their_window(
    vocabulary: Vocabulary, params: SamplingParams, expected: int
) -> None:
    logits = _likeliest(vocabulary, (10, 2.0), (11, 1.9))
    with Sampler(vocabulary, params, prompt_tokens=[10, 10, 12]) as sampler:
        assert _sample(sampler, logits).token == expected


def test_what_was_generated_is_penalised_too(vocabulary: Vocabulary) -> None:
    params = SamplingParams(temperature=0, presence_penalty=1.0)
    logits = _likeliest(vocabulary, (10, 2.0), (11, 1.9), (12, 1.8))
    with Sampler(vocabulary, params) as sampler:
        assert [_sample(sampler, logits).token for _ in range(3)] == [10, 11, 12]


def test_a_logit_bias_forbids_and_forces(vocabulary: Vocabulary) -> None:
    logits = _likeliest(vocabulary, (10, 2.0), (11, 1.0))
    for bias, expected in (((10, -math.inf), 11), ((10, -1.5), 11), ((10, -0.5), 10), ((500, 100.0), 500)):
        with Sampler(vocabulary, SamplingParams(temperature=0, logit_bias=(bias,))) as sampler:
            assert _sample(sampler, logits).token == expected
    forbidden = SamplingParams(temperature=5, top_k=0, top_p=1, min_p=0, logit_bias=((10, -math.inf),), seed=1)
    with Sampler(vocabulary, forbidden) as sampler:
        assert all(_sample(sampler, logits).token != 10 for _ in range(50))


def test_logprobs_are_of_the_softmax_of_the_raw_logits(vocabulary: Vocabulary) -> None:
    logits = _random_logits(vocabulary, 4)
    probabilities = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum()
    params = SamplingParams(temperature=0.3, seed=9, logprobs=True, n_top_logprobs=20, logit_bias=((5, 3.0),))
    with Sampler(vocabulary, params) as sampler:
        sampled = _sample(sampler, logits)
    assert sampled.logprob == pytest.approx(math.log(probabilities[sampled.token]), abs=1e-5)
    ranked = np.argsort(-probabilities)[:20].tolist()
    assert [token for token, _ in sampled.top] == ranked
    assert [logprob for _, logprob in sampled.top] == pytest.approx(np.log(probabilities[ranked]).tolist(), abs=1e-5)
    assert sum(math.exp(logprob) for _, logprob in sampled.top) <= 1


def test_without_logprobs_none_are_computed(vocabulary: Vocabulary) -> None:
    with Sampler(vocabulary, _GREEDY) as sampler:
        assert _sample(sampler, _random_logits(vocabulary, 1)) == Sampled(
            token=int(_random_logits(vocabulary, 1).argmax()), logprob=None, top=()
        )


# Lists of small numbers in words.
_GRAMMAR = """
root ::= "[" item ("," item)* "]"
item ::= ("one" | "two" | "three")
"""


def _text(vocabulary: Vocabulary, tokens: Sequence[int]) -> str:
    return b"".join(vocabulary.piece(token) for token in tokens).decode()


@pytest.mark.parametrize("temperature", [0.0, 0.8, 3.0])
def test_a_grammar_is_obeyed_whatever_the_logits_say(vocabulary: Vocabulary, temperature: float) -> None:
    for seed in range(5):
        params = SamplingParams(temperature=temperature, grammar=_GRAMMAR, seed=seed, top_k=0)
        with Sampler(vocabulary, params) as sampler:
            tokens: list[int] = []
            while not tokens or not vocabulary.is_end_of_generation(tokens[-1]):
                # The end is wanted once there is something.
                logits = _random_logits(vocabulary, 100 * seed + len(tokens))
                logits[[t for t in range(vocabulary.n_tokens) if vocabulary.is_end_of_generation(t)]] += len(tokens)
                logits[[t for t in range(vocabulary.n_tokens) if vocabulary.piece(t) == b"]"]] += len(tokens)
                tokens.append(_sample(sampler, logits).token)
                assert len(tokens) < 200
        text = _text(vocabulary, tokens)
        assert text[0] == "["
        assert text[-1] == "]"
        assert set(text[1:-1].split(",")) <= {"one", "two", "three"}


def _token(vocabulary: Vocabulary, piece: bytes) -> int:
    return next(t for t in range(vocabulary.n_tokens) if vocabulary.piece(t, special=True) == piece)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_under_a_grammar_characters_are_whole_and_of_as_few_bytes_as_can_be(
    vocabulary: Vocabulary, temperature: float
) -> None:
    """E0 80 to E0 9F would be a second way to write what has two bytes; llama.cpp's grammars let it through."""
    lead, bad, good = (_token(vocabulary, bytes([byte])) for byte in (0xE0, 0x92, 0xA4))
    params = SamplingParams(temperature=temperature, grammar="root ::= [\\x80-\\U0010FFFF]{3}", seed=1)
    with Sampler(vocabulary, params) as sampler:
        assert _sample(sampler, _likeliest(vocabulary, (lead, 9))).token == lead
        assert _sample(sampler, _likeliest(vocabulary, (bad, 30), (good, 9))).token == good


def test_a_control_token_is_no_text_of_a_grammar_unless_it_names_tokens(vocabulary: Vocabulary) -> None:
    control, letter = _token(vocabulary, b"<|im_start|>"), _token(vocabulary, b"a")
    logits = _likeliest(vocabulary, (control, 30), (letter, 9))
    for grammar, expected in (("root ::= [^b]+", letter), ("root ::= <|im_start|> | [^b]+", control)):
        with Sampler(vocabulary, SamplingParams(temperature=0, grammar=grammar)) as sampler:
            assert _sample(sampler, logits).token == expected


def test_a_control_token_that_is_visible_is_text_of_a_grammar(vocabulary: Vocabulary) -> None:
    shown, other = _token(vocabulary, b"<|im_start|>"), vocabulary.bos
    assert other is not None
    logits = _likeliest(vocabulary, (other, 40), (shown, 30), (_token(vocabulary, b"a"), 9))
    params = SamplingParams(temperature=0, grammar="root ::= .+", visible_tokens=(shown,))
    with Sampler(vocabulary, params) as sampler:
        assert _sample(sampler, logits).token == shown
    with pytest.raises(ValueError, match="cannot be visible"):
        Sampler(vocabulary, SamplingParams(visible_tokens=(vocabulary.n_tokens,)))


_LONG_GRAMMAR = 'root ::= ("one" | "two" | "three") ("," ("one" | "two" | "three")){30,}'


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.9, seed=17),
        SamplingParams(temperature=0.9, seed=17, grammar=_LONG_GRAMMAR),
        SamplingParams(temperature=0, grammar=_LONG_GRAMMAR),
        SamplingParams(temperature=0.9, seed=17, repeat_penalty=1.3, frequency_penalty=0.2, repeat_last_n=5),
    ],
    ids=["seeded", "seeded with grammar", "greedy with grammar", "seeded with penalties"],
)
@pytest.mark.parametrize("n_history", [1, 5, 12])
def test_a_sampler_rebuilt_from_the_history_goes_on_as_the_old_one(
    vocabulary: Vocabulary, params: SamplingParams, n_history: int
) -> None:
    uninterrupted = _run(vocabulary, params, 20)
    assert len(uninterrupted) > n_history
    assert _run(vocabulary, params, 20, uninterrupted[:n_history]) == uninterrupted


def test_a_history_against_the_grammar_is_refused(vocabulary: Vocabulary) -> None:
    token = vocabulary.tokenize("zebra", add_special=False, parse_special=False)[0]
    with pytest.raises(GrammarError, match=f"token {token} of the history does not follow the grammar"):
        Sampler(vocabulary, SamplingParams(grammar=_GRAMMAR), generated_tokens=[token])


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= )",
        "root ::= other",
        'other ::= "a"',
        'root ::= "unclosed',
        "root ::= root",
        'root ::= root "a" | "b"',
        "no grammar at all",
        'root ::= "a"{5,1}',
        'root ::= "\\q"',
        'root ::= "a\0b"',
        'root ::= "\ud800"',
        "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
    ],
)
def test_a_grammar_that_does_not_parse_is_refused(vocabulary: Vocabulary, grammar: str) -> None:
    with pytest.raises(GrammarError) as caught:
        check_params(vocabulary, SamplingParams(grammar=grammar))
    assert "\n" not in str(caught.value)


def test_parentheses_in_text_are_no_nesting(vocabulary: Vocabulary) -> None:
    grammar = "root ::= " + " ".join(['"("', "[(]", '"\\"("'] * 200) + " # ((("
    check_params(vocabulary, SamplingParams(grammar=grammar))
    # Nor do brackets within a literal hide a nesting.
    hidden = "root ::= " + '( ")" ' * 1000 + '"a"' + ")" * 1000
    with pytest.raises(GrammarError, match="nested more than 256 deep"):
        check_params(vocabulary, SamplingParams(grammar=hidden))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_bias_against_all_that_the_grammar_admits_is_told(vocabulary: Vocabulary, temperature: float) -> None:
    starts = [t for t in range(vocabulary.n_tokens) if vocabulary.piece(t)[:1] == b"["]
    params = SamplingParams(
        temperature=temperature, grammar=_GRAMMAR, logit_bias=tuple((token, -math.inf) for token in starts)
    )
    with (
        Sampler(vocabulary, params) as sampler,
        pytest.raises(SamplingError, match=r"forbids every token|admits no token"),
    ):
        _sample(sampler, _random_logits(vocabulary, 1))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_no_numbers_give_no_token(vocabulary: Vocabulary, temperature: float, broken: float) -> None:
    logits = _random_logits(vocabulary, 1)
    logits[7] = broken
    with Sampler(vocabulary, SamplingParams(temperature=temperature)) as sampler:
        with pytest.raises(SamplingError, match="not numbers"):
            _sample(sampler, logits)
        with pytest.raises(SamplingError, match="not numbers"):
            _sample(sampler, np.full(vocabulary.n_tokens, -np.inf, np.float32))


def test_a_bias_for_a_token_that_does_not_exist_is_refused(vocabulary: Vocabulary) -> None:
    for token in (-1, vocabulary.n_tokens):
        with pytest.raises(ValueError, match=f"names token {token}"):
            check_params(vocabulary, SamplingParams(logit_bias=((token, 1.0),)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"typical_p": 2},
        {"repeat_penalty": 0},
        {"frequency_penalty": math.inf},
        {"repeat_last_n": -2},
        {"repeat_last_n": 2**31 - 1},
        {"seed": -1},
        {"seed": 2**32},
        {"n_top_logprobs": 21},
        {"grammar": "a" * ((1 << 20) + 1)},
        {"logit_bias": ((1, math.nan),)},
    ],
)
def test_parameters_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        SamplingParams(**wrong)  # type: ignore[arg-type]


def test_closing_a_sampler_twice_is_harmless(vocabulary: Vocabulary) -> None:
    sampler = Sampler(vocabulary, SamplingParams(grammar=_GRAMMAR))
    sampler.close()
    sampler.close()
