# SPDX-License-Identifier: MIT
"""OpenAI's own client against a real server with two real workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import openai
import pytest
from llama_cpp import Llama
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.coordinator.caravan_command import DEMO_MODEL
from tests.coordinator.http.conftest import MODEL

_BEGIN = "Once upon a time"
_ASK = "Tell me a story about a llama and a lantern."


def _chat(client: openai.OpenAI, *, max_tokens: int = 40, **fields: object) -> ChatCompletion:
    return cast(ChatCompletion, _ask_chat(client, max_tokens, fields))


def _chat_chunks(client: openai.OpenAI, *, max_tokens: int = 40, **fields: object) -> list[ChatCompletionChunk]:
    return list(cast(Iterable[ChatCompletionChunk], _ask_chat(client, max_tokens, fields | {"stream": True})))


def _ask_chat(client: openai.OpenAI, max_tokens: int, fields: Mapping[str, object]) -> object:
    create: Any = client.chat.completions.create
    messages = [{"role": "user", "content": _ASK}]
    return create(model=MODEL, messages=messages, max_tokens=max_tokens, **({"temperature": 0.0} | dict(fields)))


def _complete(client: openai.OpenAI, *, prompt: object = _BEGIN, max_tokens: int = 40, **fields: object) -> Completion:
    create: Any = client.completions.create
    arguments = {"temperature": 0.0} | fields
    return cast(Completion, create(model=MODEL, prompt=prompt, max_tokens=max_tokens, **arguments))


def _complete_chunks(client: openai.OpenAI, **fields: object) -> list[Completion]:
    complete: Any = _complete
    return list(cast(Iterable[Completion], complete(client, stream=True, **fields)))


def _same_alone(prompt: str, max_tokens: int) -> str:
    """What llama-cpp-python prints from the same file in this process, alone."""
    llama = Llama(str(DEMO_MODEL), n_ctx=2048, verbose=False)
    try:
        answer = llama.create_completion(prompt, max_tokens=max_tokens, temperature=0.0)
        assert isinstance(answer, dict)
        return str(answer["choices"][0]["text"])
    finally:
        llama.close()


def test_a_completion_is_what_llama_cpp_says_alone(client: openai.OpenAI) -> None:
    answer = _complete(client, max_tokens=60)
    assert answer.choices[0].text == _same_alone(_BEGIN, 60)
    assert answer.choices[0].finish_reason == "length"
    assert (answer.model, answer.object) == (MODEL, "text_completion")


def test_a_chat_goes_through_the_models_own_template(client: openai.OpenAI) -> None:
    template = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    by_hand = _complete(client, prompt=template.format(_ASK)).choices[0].text
    answer = _chat(client)
    assert answer.choices[0].message.content == by_hand
    assert answer.choices[0].message.role == "assistant"


def test_a_story_ends_by_itself(client: openai.OpenAI) -> None:
    answer = _chat(client, max_tokens=1000)
    assert answer.choices[0].finish_reason == "stop"
    assert "llama" in (answer.choices[0].message.content or "")
    assert "<|" not in (answer.choices[0].message.content or "")


def test_a_streamed_chat_says_the_same(client: openai.OpenAI) -> None:
    whole = _chat(client)
    chunks = _chat_chunks(client, stream_options={"include_usage": True})
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 10


def test_a_streamed_completion_says_the_same(client: openai.OpenAI) -> None:
    whole = _complete(client)
    chunks = _complete_chunks(client)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_counts_every_prompt_once_and_every_token(client: openai.OpenAI) -> None:
    one = _complete(client, max_tokens=7).usage
    two = _complete(client, max_tokens=7, prompt=[_BEGIN, _BEGIN], n=2).usage
    assert one is not None
    assert two is not None
    assert one.completion_tokens == 7
    assert one.total_tokens == one.prompt_tokens + 7
    assert two.prompt_tokens == 2 * one.prompt_tokens
    assert two.completion_tokens == 4 * 7


def test_the_same_seed_gives_the_same_text_and_each_choice_its_own(client: openai.OpenAI) -> None:
    warm: dict[str, Any] = {"temperature": 1.2, "n": 2, "seed": 11}
    first, second = (_chat(client, **warm) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert texts[0] != texts[1]
    assert [choice.index for choice in first.choices] == [0, 1]
    assert _chat(client, temperature=1.2, seed=12).choices[0].message.content == texts[1]


def test_choices_are_told_apart_in_a_stream(client: openai.OpenAI) -> None:
    whole = _chat(client, temperature=1.0, n=2, seed=5)
    texts = {0: "", 1: ""}
    for chunk in _chat_chunks(client, temperature=1.0, n=2, seed=5):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert [texts[0], texts[1]] == [choice.message.content for choice in whole.choices]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI, stream: bool) -> None:
    whole = _complete(client, max_tokens=60).choices[0].text
    stop = whole[20:26]
    fields: dict[str, Any] = {"max_tokens": 60, "stop": ["~never~", stop]}
    answers = _complete_chunks(client, **fields) if stream else [_complete(client, **fields)]
    choices = [answer.choices[0] for answer in answers]
    assert "".join(choice.text for choice in choices) == whole[: whole.index(stop)]
    assert choices[-1].finish_reason == "stop"


def test_chat_logprobs_name_every_token_with_its_rivals(client: openai.OpenAI) -> None:
    answer = _chat(client, logprobs=True, top_logprobs=3, max_tokens=12)
    entries = (answer.choices[0].logprobs and answer.choices[0].logprobs.content) or []
    assert len(entries) == 12
    assert (
        b"".join(bytes(entry.bytes or []) for entry in entries).decode().strip()
        == (answer.choices[0].message.content or "").strip()
    )
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob)
        assert entry.logprob <= 0


def test_completion_logprobs_are_the_same_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = _complete(client, logprobs=2, max_tokens=12).choices[0]
    assert whole.logprobs is not None
    assert whole.logprobs.text_offset is not None
    parts = [
        chunk.choices[0].logprobs
        for chunk in _complete_chunks(client, logprobs=2, max_tokens=12)
        if chunk.choices[0].logprobs is not None
    ]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [entry for part in parts for entry in getattr(part, name)]
        assert joined == getattr(whole.logprobs, name), name
    assert len(whole.logprobs.text_offset) == 12
    assert whole.logprobs.text_offset[0] == 0


def test_a_prompt_can_be_echoed(client: openai.OpenAI) -> None:
    plain = _complete(client, max_tokens=5).choices[0].text
    answer = _complete(client, max_tokens=5, echo=True)
    assert answer.choices[0].text == _BEGIN + plain
    streamed = _complete_chunks(client, max_tokens=5, echo=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == _BEGIN + plain


def test_a_grammar_is_followed(client: openai.OpenAI) -> None:
    answer = _complete(client, extra_body={"grammar": 'root ::= "yes" | "no"'})
    assert answer.choices[0].text in ("yes", "no")
    assert answer.choices[0].finish_reason == "stop"


def test_a_forbidden_token_does_not_come(client: openai.OpenAI) -> None:
    free = _chat(client, logprobs=True, max_tokens=1)
    with_bias = _chat(client, max_tokens=1, extra_body={"logit_bias": [[_first_token(client), False]]})
    assert with_bias.choices[0].message.content != free.choices[0].message.content


def _first_token(client: openai.OpenAI) -> int:
    """The id of the token that a greedy answer begins with, found by forbidding others."""
    llama = Llama(str(DEMO_MODEL), vocab_only=True, verbose=False)
    try:
        text = _chat(client, max_tokens=1).choices[0].message.content or ""
        (token,) = llama.tokenize(text.encode(), add_bos=False)
        return token
    finally:
        llama.close()


def test_eight_at_once_say_what_each_says_alone(client: openai.OpenAI) -> None:
    prompts = [
        f"{_BEGIN} there was a llama named {name}" for name in ("Ana", "Bo", "Cid", "Dara", "Eve", "Fay", "Gus", "Hal")
    ]
    alone = [_complete(client, prompt=prompt, max_tokens=16).choices[0].text for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as threads:
        together = list(threads.map(lambda p: _complete(client, prompt=p, max_tokens=16).choices[0].text, prompts))
    # Batches differ, so llama.cpp may choose otherwise at a near tie; that is rare.
    assert sum(a == b for a, b in zip(alone, together, strict=True)) >= 6


def test_the_model_is_listed_and_any_name_is_answered_with_the_true_one(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    model = client.models.retrieve(MODEL).to_dict()
    assert model["id"] == MODEL
    assert model["architecture"] == {"input_modalities": ["text"], "output_modalities": ["text", "embeddings"]}
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.models.retrieve("gpt-4o")
    answer = client.completions.create(model="gpt-4o", prompt=_BEGIN, max_tokens=1)
    assert answer.model == MODEL
