# SPDX-License-Identifier: MIT
"""What of a request's body is understood, and what is refused with which sentence. Without a server."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from coordinator.chat_output import Calls, GoingOn
from coordinator.http.body import invalid
from coordinator.http.clients import client_at
from coordinator.http.schemas.chat import ChatRequest
from coordinator.http.schemas.completions import CompletionRequest
from coordinator.http.translate import (
    MAX_UNREAD,
    messages_of,
    options_of,
    options_of_choice,
    sampling_of,
    template_variables_of,
    wish_of,
)
from native import SamplingParams

_HELLO = [{"role": "user", "content": "hello"}]
_SAID = {"role": "assistant", "content": "Once upon"}
_TOOL = {"type": "function", "function": {"name": "clock"}}


def _call(arguments: str) -> dict[str, object]:
    return {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": arguments}}


def _chat(**fields: object) -> ChatRequest:
    return ChatRequest.model_validate_json(json.dumps({"messages": _HELLO} | fields))


def _completion(**fields: object) -> CompletionRequest:
    return CompletionRequest.model_validate_json(json.dumps(fields))


def _refusal(body: dict[str, object] | str) -> str:
    text = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(ValidationError) as refused:
        ChatRequest.model_validate_json(text)
    return invalid(refused.value).message


@pytest.mark.parametrize(
    ("prompt", "understood"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
        ([1, "a", 2], ((1, "a", 2),)),
        ([["a", 1], "b", [2]], (("a", 1), "b", (2,))),
        ({"prompt_string": "a"}, ("a",)),
        ([{"prompt_string": [1, "a"]}, "b"], ((1, "a"), "b")),
    ],
)
def test_all_forms_of_a_prompt_are_understood(prompt: object, understood: object) -> None:
    assert _completion(prompt=prompt).prompt == understood


@pytest.mark.parametrize(
    "prompt",
    [[], [[]], ["a", [1.5]], [True], [-1], 7, None, [["a"]], [1, [2]], {}, {"prompt_string": {}}, [1, "a", True]],
)
def test_what_is_no_prompt_is_refused(prompt: object) -> None:
    with pytest.raises(ValidationError, match="prompt is a string, a list of strings, token ids"):
        _completion(prompt=prompt)


def test_what_a_request_leaves_out_is_llama_servers_default() -> None:
    sampling = sampling_of(_chat(temperature=None), n_top_logprobs=None)
    assert sampling == SamplingParams(seed=sampling.seed)


def test_every_sampling_field_arrives() -> None:
    fields: dict[str, object] = {
        "temperature": 0.25,
        "top_k": 7,
        "top_p": 0.5,
        "min_p": 0.125,
        "typical_p": 0.75,
        "repeat_penalty": 1.5,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "repeat_last_n": 32,
        "seed": 5,
        "grammar": 'root ::= "a"',
    }
    sampling = sampling_of(_chat(**fields), n_top_logprobs=4, logit_bias=((3, -100.0), (4, float("-inf"))))
    expected = SamplingParams(
        **fields,  # type: ignore[arg-type]
        logit_bias=((3, -100.0), (4, float("-inf"))),
        logprobs=True,
        n_top_logprobs=4,
    )
    assert sampling == expected


def test_logit_bias_is_of_ids_or_of_texts_in_both_forms() -> None:
    assert _chat(logit_bias=[[5, 1.5], [6, False], ["7", 1]]).logit_bias == ((5, 1.5), (6, float("-inf")), ("7", 1))
    assert _chat(logit_bias={"7": 1.5, " the": False}).logit_bias == ((7, 1.5), (" the", float("-inf")))


def test_seeds_beyond_32_bits_are_cut_and_choices_get_their_own() -> None:
    asked = _chat(seed=(1 << 40) + 3, stop="x")
    options = options_of(asked, sampling_of(asked, n_top_logprobs=None), "a client")
    choices = [options_of_choice(options, choice) for choice in (0, 1)]
    assert [sampling.seed for choice in choices if (sampling := choice["sampling"])] == [3, 4]
    assert {(*choice["stop"], choice["client"]) for choice in choices} == {("x", "a client")}


def test_a_client_may_step_back_and_never_ahead() -> None:
    asked = _chat(priority=3, timeout=2.5, user="root")
    options = options_of(asked, sampling_of(asked, n_top_logprobs=None), "a client")
    assert (options["priority"], options["timeout"], options["client"]) == (3, 2.5, "a client")
    with pytest.raises(ValidationError, match="priority is 0"):
        _chat(priority=-1)


def test_only_streams_are_paused_for_their_readers() -> None:
    plain, stream = _chat(), _chat(stream=True)
    assert options_of(plain, SamplingParams(), "")["max_unread"] is None
    assert options_of(stream, SamplingParams(), "")["max_unread"] == MAX_UNREAD


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.168.1.20", "192.168.1.20"),
        ("::ffff:192.168.1.20", "192.168.1.20"),
        ("127.0.0.1", "this machine"),
        ("127.9.9.9", "this machine"),
        ("::1", "this machine"),
        ("2a00:1450:1:2:aaaa::1", "2a00:1450:1:2::/64"),
        ("2a00:1450:1:2:bbbb::1", "2a00:1450:1:2::/64"),
        ("fe80::1%eth0", "fe80::1"),
        ("fd00::1", "fd00::1"),
    ],
)
def test_a_client_is_a_machine_whatever_address_of_its_own_it_takes(host: str, client: str) -> None:
    assert client_at(host) == client


def test_a_seed_of_minus_one_is_a_random_one() -> None:
    seeds = {sampling_of(_chat(seed=-1), n_top_logprobs=None).seed for _ in range(4)}
    assert len(seeds) > 1


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": -1}, None),
        ({"n_predict": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
    ],
)
def test_the_token_limit_has_three_names(fields: dict[str, object], limit: int | None) -> None:
    assert _chat(**fields).token_limit == limit


def test_text_parts_are_joined_and_a_developer_speaks_as_the_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = _chat(messages=[{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}])
    assert messages_of(request) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab"},
    ]


def test_where_an_answer_goes_on_is_said_or_follows_from_the_last_message() -> None:
    thought = {"role": "assistant", "reasoning_content": "Hm", "content": ""}
    said = {"continue_final_message": True, "add_generation_prompt": False}
    for message, fields, expected in (
        (_SAID, {}, GoingOn()),
        (_SAID, {"add_generation_prompt": True}, GoingOn()),
        (thought, {}, GoingOn(from_thoughts=True)),
        (thought | {"content": "So"}, said, GoingOn(is_echoed=False)),
        (thought, said | {"continue_final_message": "content", "echo": True}, GoingOn()),
        (thought | {"content": "So"}, said | {"continue_final_message": "reasoning_content"}, GoingOn(True, False)),
    ):
        assert _chat(messages=[*_HELLO, message], **fields).going_on == expected
    assert _chat(messages=[_SAID, *_HELLO], add_generation_prompt=False).going_on is None
    assert template_variables_of(_chat(add_generation_prompt=False)) == {"add_generation_prompt": False}


def test_how_much_of_a_prompt_stays_is_passed_on() -> None:
    assert options_of(_chat(n_keep=-1), SamplingParams(), "me").get("n_keep") == -1
    assert options_of(_chat(), SamplingParams(), "me").get("n_keep") == 0


def test_which_tools_may_be_called_is_understood_in_every_form() -> None:
    other = {"type": "function", "function": {"name": "other", "parameters": {"properties": {}}, "strict": True}}
    named = {"type": "function", "function": {"name": "clock"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named]}}
    for choice, calls, names, parallel in (
        (None, Calls.AUTO, ["clock", "other"], True),
        ("none", Calls.NONE, [], True),
        ("required", Calls.REQUIRED, ["clock", "other"], True),
        (named, Calls.REQUIRED, ["clock"], False),
        (allowed, Calls.AUTO, ["clock"], True),
    ):
        wish = wish_of(_chat(tools=[_TOOL, other], tool_choice=choice))
        assert (wish.calls, [tool.name for tool in wish.callables], wish.parallel) == (calls, names, parallel)
    assert wish.tools[1].parameters == {"type": "object", "properties": {}}
    assert [tool.strict for tool in wish.tools] == [False, True]
    assert not wish_of(_chat(tools=[_TOOL], parallel_tool_calls=False)).parallel


def test_where_thoughts_are_told_is_the_requests_choice_then_the_servers() -> None:
    for server in (True, False):
        for asked, apart in ((None, server), ("auto", True), ("deepseek", True), ("none", False)):
            wish = wish_of(_chat(reasoning_format=asked), tells_thoughts_apart=server)
            assert wish.reasoning_apart == apart


def test_calls_and_what_they_gave_are_understood() -> None:
    messages = [
        *_HELLO,
        {"role": "assistant", "content": None, "tool_calls": [_call('{"zone": "UTC"}')], "reasoning_content": "Hm."},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "noon"}]},
    ]
    assert messages_of(_chat(messages=messages))[1:] == [
        {"role": "assistant", "content": "", "reasoning_content": "Hm.",
         "tool_calls": [{"id": "call_1", "type": "function",
                         "function": {"name": "clock", "arguments": {"zone": "UTC"}}}]},
        {"role": "tool", "content": "noon", "tool_call_id": "call_1", "name": "clock"},
    ]  # fmt: skip


def test_how_much_is_thought_reaches_the_template() -> None:
    asked = _chat(reasoning_effort="high", chat_template_kwargs={"enable_thinking": True})
    assert template_variables_of(asked) == {"reasoning_effort": "high", "enable_thinking": True}
    assert template_variables_of(_chat(reasoning_effort="none")) == {"enable_thinking": False}


def test_what_changes_nothing_is_ignored() -> None:
    _chat(user="me", store=False, tools=[], tool_choice="auto", response_format={"type": "text"}, cache_prompt=True)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"tools": [{"type": "function"}]}, "tools.0.function: is missing"),
        ({"tools": [{"type": "web_search"}]}, "only tools of type function can be called"),
        ({"tools": [_TOOL, _TOOL]}, "two tools are called 'clock'"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name: string should match"),
        ({"tools": [_TOOL], "tool_choice": "must"}, "tool_choice is none, auto, required, a function by its name"),
        ({"tool_choice": "required"}, "tool_choice wants a tool to be called, and there are none"),
        ({"tools": [_TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice names 'x'"),
        ({"tools": [_TOOL], "grammar": "root ::= [a]"}, "a grammar and tools cannot both be kept"),
        ({"functions": [{"name": "clock"}]}, "functions is OpenAI's old form: send `tools`"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [_call("[1]")]}]},
            "the arguments of a tool call are a JSON",
        ),
        (
            {"messages": [{"role": "user", "content": "", "tool_calls": [_call("{}")]}]},
            "only messages of the assistant",
        ),
        ({"response_format": {"type": "json_schema"}}, "a response_format of type json_schema needs the schema"),
        ({"response_format": {"type": "xml"}}, "the type of a response_format is text, json_object or json_schema"),
        ({"json_schema": {}, "grammar": "root ::= [a]"}, "a grammar and a JSON schema cannot both be kept"),
        ({"modalities": ["text", "audio"]}, "only text can be generated"),
        ({"mirostat": 2}, "mirostat is not supported"),
        ({"stream_options": {"include_usage": True}}, "stream_options is for streams"),
        ({"top_logprobs": 3}, "top_logprobs needs `logprobs`"),
        ({"temperature": -1}, "temperature: input should be greater than or equal to 0"),
        ({"temperature": "1"}, "temperature: input should be a valid number"),
        ({"n": 0}, "n: input should be greater than or equal to 1"),
        ({"n": True}, "n: input should be a valid integer"),
        ({"max_tokens": 0}, "max_tokens is at least 1"),
        ({"stop": [""]}, "stop.0: string should have at least 1 character"),
        ({"stop": ["a"] * 17}, "stop: tuple should have at most 16 items"),
        ({"logit_bias": [[-1, 1]]}, "logit_bias maps token ids, or texts of up to 256 characters, to numbers"),
        ({"logit_bias": {"a" * 257: 1}}, "logit_bias maps token ids, or texts of up to 256 characters, to numbers"),
        ({"post_sampling_probs": True}, "post_sampling_probs is not supported"),
        (
            {"continue_final_message": True},
            "continue_final_message goes on with a message: set `add_generation_prompt`",
        ),
        (
            {"continue_final_message": "content", "add_generation_prompt": False},
            "continue_final_message goes on with a message of the assistant, and that is not the last one",
        ),
        ({"messages": [*_HELLO, _SAID, _SAID]}, "two messages of the assistant at the end cannot be gone on with"),
        (
            {"messages": [*_HELLO, {"role": "assistant", "tool_calls": [_call("{}")]}]},
            "a message with `tool_calls` cannot be gone on with",
        ),
        ({"messages": []}, "messages: list should have at least 1 item"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages.0.role: input should be 'system'"),
        ({"messages": [{"role": "user"}]}, "content is missing: a message holds text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "only text can be read, this message holds a part of type 'image_url'",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(fields: dict[str, object], sentence: str) -> None:
    assert _refusal({"messages": _HELLO} | fields).startswith(sentence)


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "nothing", '{"messages": [{"role": "user", "content": "\\ud800"}]}', "[" * 100_000]
)
def test_what_is_no_request_is_refused(body: str) -> None:
    assert _refusal(body)
