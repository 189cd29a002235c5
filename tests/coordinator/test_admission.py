# SPDX-License-Identifier: MIT
"""The gate: what a caller asks for is refused with a sentence, or becomes the tokens that llama.cpp would see."""

import threading
from collections.abc import Callable, Iterator

import pytest

from coordinator.admission import RANDOM_SEED, Admission
from coordinator.errors import ClosedError, InvalidRequestError, PromptTooLongError
from coordinator.models import resolve_model
from coordinator.prompts import Lease
from native import ChatTemplate, SamplingParams, Vocabulary

_N_CTX = 64


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    with Vocabulary.load(resolve_model("demo").path) as vocabulary:
        yield vocabulary


@pytest.fixture
def admission() -> Admission:
    return Admission(Vocabulary.load(resolve_model("demo").path), _N_CTX)


def _admit(admission: Admission, sampling: SamplingParams) -> None:
    admission.admit((1, 2), {"sampling": sampling, "max_tokens": 4})


def test_a_text_gets_what_the_model_puts_around_it(admission: Admission, vocabulary: Vocabulary) -> None:
    plain = vocabulary.tokenize("Once upon", add_special=False, parse_special=True)
    bos = [vocabulary.bos] if vocabulary.add_bos else []
    assert admission.prompt_tokens("Once upon") == (*bos, *plain)


def test_token_ids_are_taken_as_they_are(admission: Admission) -> None:
    assert admission.prompt_tokens([5, 6, 7]) == (5, 6, 7)


def test_token_ids_that_do_not_exist_are_refused(admission: Admission, vocabulary: Vocabulary) -> None:
    with pytest.raises(InvalidRequestError, match=f"{vocabulary.n_tokens} is no token"):
        admission.prompt_tokens([1, vocabulary.n_tokens])


def test_a_chat_goes_through_the_models_own_template_with_at_most_one_bos(
    admission: Admission, vocabulary: Vocabulary
) -> None:
    messages = [{"role": "user", "content": "Tell me a story."}]
    template = vocabulary.chat_template
    assert template is not None
    text = template.render(messages)
    tokens = admission.chat_tokens(messages, None)
    assert list(tokens) == vocabulary.tokenize(text, add_special=False, parse_special=True)
    assert tokens.count(vocabulary.bos or -1) <= 1


def test_a_chat_whose_template_writes_no_bos_gets_one_as_a_raw_prompt_does(admission: Admission) -> None:
    admission._template = ChatTemplate("{{ messages[0].content }}", bos="", eos="")
    messages = [{"role": "user", "content": "Once upon"}]
    assert admission.chat_prompt(messages, None) == "Once upon"
    assert admission.chat_tokens(messages, None) == admission.prompt_tokens("Once upon")


def test_a_chat_without_messages_is_refused(admission: Admission) -> None:
    with pytest.raises(InvalidRequestError, match="no messages"):
        admission.chat_tokens([], None)


def test_text_that_is_no_unicode_is_refused(admission: Admission) -> None:
    with pytest.raises(InvalidRequestError, match="not valid Unicode"):
        admission.prompt_tokens("\ud800")


def test_a_prompt_that_fills_the_context_is_refused_with_both_numbers(admission: Admission) -> None:
    with pytest.raises(PromptTooLongError) as refused:
        admission.admit((1,) * _N_CTX, {"max_tokens": 1})
    assert (refused.value.n_prompt, refused.value.n_ctx) == (_N_CTX, _N_CTX)


def test_an_answer_is_cut_to_what_the_context_holds(admission: Admission) -> None:
    prompt = (1,) * (_N_CTX - 1)
    assert admission.admit(prompt, {}).max_tokens == 1
    assert admission.admit(prompt, {"max_tokens": 99}).max_tokens == 1
    assert admission.admit((1,), {"max_tokens": 9}).max_tokens == 9


def test_without_parameters_or_with_the_random_seed_every_request_gets_its_own(admission: Admission) -> None:
    for sampling in (None, SamplingParams(seed=RANDOM_SEED)):
        seeds = {admission.admit((1,), {"sampling": sampling, "max_tokens": 1}).sampling.seed for _ in range(4)}
        assert len(seeds) == 4
        assert RANDOM_SEED not in seeds


def test_a_given_seed_is_kept(admission: Admission) -> None:
    assert admission.admit((1,), {"sampling": SamplingParams(seed=7), "max_tokens": 1}).sampling.seed == 7


@pytest.mark.parametrize(
    ("sampling", "reason"),
    [
        (SamplingParams(temperature=1e39), "temperature is out of range"),
        (SamplingParams(frequency_penalty=-1e39), "frequency_penalty is out of range"),
        (SamplingParams(top_k=1 << 31), "top_k is out of range"),
        (SamplingParams(grammar="x" * 300_000), "the grammar is longer than"),
        (SamplingParams(grammar="root ::= nothing"), "grammar"),
        (SamplingParams(n_top_logprobs=3), "n_top_logprobs needs logprobs"),
        (SamplingParams(logit_bias=((1, float("inf")),)), "a logit bias must be a finite number"),
        (SamplingParams(logit_bias=((1 << 20, 1.0),)), "a logit bias names token"),
    ],
)
def test_parameters_that_a_worker_would_refuse_are_refused_here(
    admission: Admission, sampling: SamplingParams, reason: str
) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        _admit(admission, sampling)


def test_a_token_may_be_forbidden(admission: Admission) -> None:
    _admit(admission, SamplingParams(logit_bias=((1, float("-inf")),)))


@pytest.mark.parametrize(("max_tokens", "stop"), [(0, ()), (-1, ()), (1, ("",)), (1, ("a", ""))])
def test_limits_and_stop_strings_that_cannot_be_are_refused(
    admission: Admission, max_tokens: int, stop: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidRequestError):
        admission.admit((1,), {"max_tokens": max_tokens, "stop": stop})


def test_one_stop_string_need_not_be_in_a_list(admission: Admission) -> None:
    assert admission.admit((1,), {"max_tokens": 1, "stop": "END"}).stop == ("END",)


def test_an_empty_prompt_is_refused(admission: Admission) -> None:
    with pytest.raises(InvalidRequestError, match="the prompt is empty"):
        admission.admit((), {"max_tokens": 1})


def test_a_closed_gate_lets_nobody_in(admission: Admission) -> None:
    admission.close()
    with pytest.raises(ClosedError):
        admission.prompt_tokens("Once upon")
    with pytest.raises(ClosedError):
        admission.chat_tokens([{"role": "user", "content": "Hi"}], None)
    with pytest.raises(ClosedError):
        admission.admit((1,), {"max_tokens": 1})


def test_who_is_inside_when_the_vocabulary_is_freed_comes_out_well(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Once upon a time " * 50_000
    expected = len(admission.prompt_tokens(text))
    results: list[int] = []
    is_inside = threading.Event()

    def enter(enter: Callable[[], Lease] = admission.enter) -> Lease:
        lease = enter()
        is_inside.set()
        return lease

    monkeypatch.setattr(admission, "enter", enter)
    thread = threading.Thread(target=lambda: results.append(len(admission.prompt_tokens(text))))
    thread.start()
    assert is_inside.wait(60)
    admission.free()
    thread.join()
    assert results == [expected]
    with pytest.raises(ClosedError):
        admission.prompt_tokens("Once upon")


def test_more_tokens_than_the_context_holds_are_for_one_that_shifts(admission: Admission) -> None:
    assert admission.admit((1, 2), {"max_tokens": 1000}).max_tokens == _N_CTX - 2
    shifting = Admission(Vocabulary.load(resolve_model("demo").path), _N_CTX, shifts=True)
    assert shifting.admit((1, 2), {"max_tokens": 1000}).max_tokens == 1000
    # Who does not say how many would else never come to an end.
    assert shifting.admit((1, 2), {}).max_tokens == _N_CTX - 2
    with pytest.raises(InvalidRequestError, match="n_keep must be a number of tokens"):
        shifting.admit((1, 2), {"n_keep": -2})
