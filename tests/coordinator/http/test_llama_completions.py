# SPDX-License-Identifier: MIT
"""llama-server's own forms, timings and fields, of a real server, as its clients use them."""

from __future__ import annotations

import json
from typing import Any

import httpx

_PROMPT = "Once upon a time"
_GREEDY = {"temperature": 0, "n_predict": 8}
_MESSAGES = [{"role": "user", "content": "What is a llama?"}]


def _posted(raw: httpx.Client, path: str, **body: object) -> Any:  # noqa: ANN401 -- JSON
    response = raw.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def _streamed(raw: httpx.Client, path: str, **body: object) -> list[dict[str, Any]]:
    response = raw.post(path, json=body | {"stream": True})
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert ("[DONE]" in lines) == path.startswith("/v1/chat")
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_its_own_completions_say_what_openais_do(raw: httpx.Client) -> None:
    same = _posted(raw, "/v1/completions", prompt=_PROMPT, logprobs=3, **_GREEDY)
    own = _posted(raw, "/completion", prompt=_PROMPT, n_probs=3, return_tokens=True, **_GREEDY)
    assert own["content"] == same["choices"][0]["text"]
    assert (own["tokens_predicted"], own["stop_type"], own["generation_settings"]["n_predict"]) == (8, "limit", 8)
    assert own["tokens_evaluated"] == same["usage"]["prompt_tokens"]
    assert own["prompt"].endswith(_PROMPT)
    likely = own["completion_probabilities"]
    assert [each["id"] for each in likely] == own["tokens"]
    assert [each["token"] for each in likely] == same["choices"][0]["logprobs"]["tokens"]
    assert all(each["top_logprobs"][0]["id"] == each["id"] for each in likely)
    events = _streamed(raw, "/completions", prompt=_PROMPT, **_GREEDY)
    assert "".join(event["content"] for event in events) == own["content"]
    assert [token for event in events for token in event["tokens"]] == own["tokens"]
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]


def test_its_own_completions_take_every_form_of_a_prompt(raw: httpx.Client) -> None:
    tokens = _posted(raw, "/tokenize", content=_PROMPT, add_special=True)["tokens"]
    mixed = [*tokens[:-1], *_posted(raw, "/tokenize", content=" walks")["tokens"]]
    prompts = [_PROMPT, tokens, {"prompt_string": _PROMPT}, [*tokens[:-1], " walks"], mixed]
    told = _posted(raw, "/completion", prompt=prompts, response_fields=["content", "prompt"], **_GREEDY)
    assert [sorted(each) for each in told] == [["content", "prompt"]] * 5
    assert told[0] == told[1] == told[2]
    assert told[3] == told[4]


def test_a_stop_string_and_its_place_are_told(raw: httpx.Client) -> None:
    text = _posted(raw, "/completion", prompt=_PROMPT, **_GREEDY)["content"]
    word = text.split()[2]
    told = _posted(raw, "/completion", prompt=_PROMPT, stop=[word], **_GREEDY)
    assert (told["stop_type"], told["stopping_word"]) == ("word", word)
    assert text.startswith(told["content"])
    assert word not in told["content"]


def test_timings_come_with_every_answer_and_with_every_token_if_asked_for(raw: httpx.Client) -> None:
    fields = {"messages": _MESSAGES, "temperature": 0, "max_tokens": 6}
    whole = _posted(raw, "/v1/chat/completions", **fields)
    timings, usage = whole["timings"], whole["usage"]
    assert timings["prompt_n"] + timings["cache_n"] == usage["prompt_tokens"]
    assert timings["predicted_n"] == usage["completion_tokens"] == 6
    assert timings["prompt_ms"] > 0
    assert timings["predicted_per_second"] > 0
    plain = _streamed(raw, "/v1/chat/completions", **fields)
    assert [event for event in plain if "timings" in event] == plain[-1:]
    usage_event = {"stream_options": {"include_usage": True}}
    timed = _streamed(raw, "/v1/chat/completions", timings_per_token=True, **usage_event, **fields)
    counts = [event["timings"]["predicted_n"] for event in timed if "timings" in event]
    assert counts == sorted(counts)
    assert counts[-1] == 6
    assert "timings" not in timed[0]
    assert timed[-1]["choices"] == []
    response = raw.post("/v1/responses", json={"input": "a", "max_output_tokens": 4, "stream": True})
    last = json.loads(response.text.rstrip().rpartition("data: ")[2])
    assert (last["type"], last["timings"]["predicted_n"]) == ("response.incomplete", 4)


def test_how_far_a_prompt_is_is_told_before_the_first_token(raw: httpx.Client) -> None:
    long = "This is a test of a long prompt. " * 60
    events = _streamed(raw, "/v1/completions".replace("/v1", ""), prompt=long, return_progress=True, **_GREEDY)
    told = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    assert ["prompt_progress" in event for event in events] == [True] * len(told) + [False] * (len(events) - len(told))
    assert told[0]["processed"] == told[0]["cache"]
    done = [each["processed"] for each in told]
    assert done == sorted(set(done))
    assert done[-1] == told[-1]["total"] == events[-1]["tokens_evaluated"]
    assert len(told) > 2
    again = _streamed(raw, "/completion", prompt=long, return_progress=True, **_GREEDY)
    assert again[0]["prompt_progress"]["cache"] > 0


def test_a_message_that_is_begun_is_gone_on_with(raw: httpx.Client) -> None:
    messages = [*_MESSAGES, {"role": "assistant", "content": "Once upon"}]
    fields = {"temperature": 0, "max_tokens": 8}
    prompt = _posted(raw, "/apply-template", messages=messages)["prompt"]
    assert prompt.endswith("assistant\nOnce upon")
    rest = _posted(raw, "/v1/completions", prompt=prompt, **fields)["choices"][0]["text"]
    whole = _posted(raw, "/v1/chat/completions", messages=messages, verbose=True, **fields)
    assert whole["choices"][0]["message"]["content"] == f"Once upon{rest}"
    assert whole["__verbose"]["prompt"].endswith(prompt)
    explicit = {"continue_final_message": True, "add_generation_prompt": False}
    for asked, text in (({}, f"Once upon{rest}"), (explicit, rest)):
        events = _streamed(raw, "/v1/chat/completions", messages=messages, **fields, **asked)
        assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == text
    assert _posted(raw, "/apply-template", messages=messages, **explicit)["prompt"] == prompt
    without = _posted(raw, "/apply-template", messages=_MESSAGES, add_generation_prompt=False)["prompt"]
    assert prompt.startswith(without)
    assert not without.endswith("assistant\n")


def test_tokens_are_forbidden_by_texts_and_ends_by_a_word(raw: httpx.Client) -> None:
    text = _posted(raw, "/completion", prompt=_PROMPT, **_GREEDY)["content"]
    word = text.split()[0]
    tokens = _posted(raw, "/tokenize", content=f" {word}", parse_special=False)["tokens"]
    by_text = _posted(raw, "/completion", prompt=_PROMPT, logit_bias=[[f" {word}", False]], **_GREEDY)
    by_id = _posted(raw, "/completion", prompt=_PROMPT, logit_bias={str(token): False for token in tokens}, **_GREEDY)
    assert by_text["content"] == by_id["content"] != text
    endless = _posted(raw, "/completion", prompt=_PROMPT, ignore_eos=True, **_GREEDY | {"n_predict": 200})
    assert (endless["stop_type"], endless["tokens_predicted"]) == ("limit", 200)
    forbidden = endless["generation_settings"]["logit_bias"]
    assert forbidden
    assert all(entry["bias"] is None for entry in forbidden)


def test_its_own_embeddings_are_openais_in_another_form(raw: httpx.Client) -> None:
    texts = ["A llama and a lantern.", {"content": [{"type": "text", "text": "Once"}]}, [5, " walks"]]
    same = _posted(raw, "/v1/embeddings", input=texts)["data"]
    expected = [{"index": item["index"], "embedding": [item["embedding"]]} for item in same]
    assert _posted(raw, "/embeddings", input=texts) == expected
    assert _posted(raw, "/embedding", content=texts) == expected
    assert _posted(raw, "/v1/embeddings", content=texts) == expected


def test_the_answer_in_its_own_form_is_shown_beside_openais(raw: httpx.Client) -> None:
    told = _posted(raw, "/v1/completions", prompt=_PROMPT, verbose=True, **_GREEDY)
    assert told["__verbose"]["content"] == told["choices"][0]["text"]
    assert "__verbose" not in _posted(raw, "/v1/completions", prompt=_PROMPT, **_GREEDY)
    events = _streamed(raw, "/v1/chat/completions", messages=_MESSAGES, verbose=True, max_tokens=2)
    assert [("__verbose" in event) for event in events] == [False] * (len(events) - 1) + [True]
