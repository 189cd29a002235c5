# SPDX-License-Identifier: MIT
"""What llama.cpp's tests check of chats. Texts are greedy here, so that they can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from comparison.check import Check, Facts
from comparison.peer import Peer

_ROUTE = "POST /v1/chat/completions"
_FILE = "test_chat_completion.py::"
_BOOK = [{"role": "system", "content": "Book"}, {"role": "user", "content": "What is the best book"}]
_LONG_BOOK = _BOOK * 100
_TINY = "tiny models of other templates"


def _chat(peer: Peer, messages: object = _BOOK, **fields: object) -> Any:  # noqa: ANN401 -- an answer
    return peer.post("/v1/chat/completions", **({"messages": messages, "temperature": 0, "max_tokens": 8} | fields))


def _chunks(peer: Peer, **fields: object) -> list[dict[str, Any]]:
    return peer.stream("/v1/chat/completions", **({"messages": _BOOK, "temperature": 0, "max_tokens": 8} | fields))


def _facts_of(answer: Any) -> dict[str, Any]:  # noqa: ANN401 -- an answer
    return {
        "status": answer.status,
        "role": answer["choices.0.message.role"],
        "content": answer["choices.0.message.content"],
        "finish_reason": answer["choices.0.finish_reason"],
        "prompt_tokens": answer["usage.prompt_tokens"],
        "completion_tokens": answer["usage.completion_tokens"],
    }


def _whole(peer: Peer) -> Facts:
    answer = peer.post("/chat/completions", messages=_BOOK, max_tokens=8, temperature=0)
    facts = _facts_of(answer)
    facts["cmpl in id"] = "cmpl" in answer["id"]
    facts["object"] = answer["object"]
    facts["model"] = answer["model"]
    return facts


def _fingerprint(peer: Peer) -> Facts:
    return {"begins with b": str(_chat(peer)["system_fingerprint"]).startswith("b")}


def _parts(peer: Peer) -> Facts:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "the best book"}]
    return _facts_of(_chat(peer, [_BOOK[0], {"role": "user", "content": parts}]))


def _one_part(peer: Peer) -> Facts:
    return _facts_of(_chat(peer, [_BOOK[0], {"role": "user", "content": [{"type": "text", "text": "What is"}]}]))


def _cached(peer: Peer) -> Facts:
    answers = [_chat(peer, [_BOOK[0], {"role": "user", "content": f"1 2 3 4 5 {last}"}]) for last in (6, 6, 9)]
    numbers = [answer["usage.prompt_tokens_details.cached_tokens"] for answer in answers]
    return {"again": numbers[1] == answers[1]["usage.prompt_tokens"] - 1, "its beginning": 0 < numbers[2] < numbers[1]}


def _stream(peer: Peer) -> Facts:
    chunks = [chunk for chunk in _chunks(peer, stream_options={"include_usage": True}) if chunk["choices"]]
    choices = [chunk["choices"][0] for chunk in chunks]
    return {
        "role only first": [("role" in choice["delta"]) for choice in choices].count(True) == 1,
        "role": choices[0]["delta"]["role"],
        "content": "".join(choice["delta"].get("content") or "" for choice in choices),
        "finish_reason": choices[-1]["finish_reason"],
        "last delta": choices[-1]["delta"],
        "one id": len({chunk["id"] for chunk in chunks}),
        "object": chunks[0]["object"],
    }


def _first_content(peer: Peer) -> Facts:
    return {"content of the first delta": _chunks(peer)[0]["choices"][0]["delta"].get("content", "left out")}


def _stream_usage(peer: Peer) -> Facts:
    last = _chunks(peer, stream_options={"include_usage": True})[-1]
    usage = last["usage"]
    return {"choices": last["choices"], "n": (usage["prompt_tokens"], usage["completion_tokens"])}


def _of_format(form: Mapping[str, Any], **fields: object) -> Callable[[Peer], Facts]:
    def ask(peer: Peer) -> Facts:
        answer = _chat(peer, response_format=form, **fields)
        return {"status": answer.status, "content": answer["choices.0.message.content"]}

    return ask


def _status_of(**fields: object) -> Callable[[Peer], Facts]:
    def ask(peer: Peer) -> Facts:
        answer = _chat(peer, **fields)
        return {"status": answer.status, "error": answer["error.message"] is not None}

    return ask


def _invalid_messages(peer: Peer) -> Facts:
    wrong: list[object] = [None, "string", [123], [{}], [{"role": 123}], [{"role": "system", "content": 123}]]
    wrong.append([{"role": "system", "content": "test"}, {}])
    answers = [_chat(peer, messages) for messages in wrong]
    return {"refused": [answer.status in (400, 500) and answer["error"] is not None for answer in answers]}


def _invalid_status(peer: Peer) -> Facts:
    return {"statuses": [_chat(peer, messages).status for messages in (None, "string", [123], [{"role": 123}])]}


def _two_assistants(peer: Peer) -> Facts:
    twice = [{"role": "user", "content": "test"}, *[{"role": "assistant", "content": "test"}] * 2]
    return {"status": _chat(peer, twice).status}


def _grammar(peer: Peer) -> Facts:
    answer = _chat(peer, grammar='root ::= "a"{5,5}')
    return {"content": answer["choices.0.message.content"], "finish_reason": answer["choices.0.finish_reason"]}


def _n_of_ended(peer: Peer) -> Facts:
    return {"completion_tokens": _chat(peer, grammar='root ::= "a"{5,5}')["usage.completion_tokens"]}


def _json_schema(peer: Peer) -> Facts:
    return {"content": _chat(peer, json_schema={"const": "42"}, max_tokens=12)["choices.0.message.content"]}


def _logprobs(peer: Peer) -> Facts:
    answer = _chat(peer, max_tokens=5, logprobs=True, top_logprobs=10, cache_prompt=False)
    entries = answer["choices.0.logprobs.content"]
    return {
        "tokens": [entry["token"] for entry in entries],
        "bytes": [entry["bytes"] for entry in entries],
        "logprobs": [round(entry["logprob"], 3) for entry in entries],
        "n top": [len(entry["top_logprobs"]) for entry in entries],
        "rivals": [[top["token"] for top in entry["top_logprobs"][:3]] for entry in entries],
        "text": "".join(entry["token"] for entry in entries) == answer["choices.0.message.content"],
    }


def _logprobs_stream(peer: Peer) -> Facts:
    choices = [chunk["choices"][0] for chunk in _chunks(peer, max_tokens=5, logprobs=True, top_logprobs=10)]
    entries = [entry for choice in choices if choice.get("logprobs") for entry in choice["logprobs"]["content"]]
    return {"tokens": [entry["token"] for entry in entries], "n top": [len(entry["top_logprobs"]) for entry in entries]}


def _logit_bias(peer: Peer) -> Facts:
    greedy = _chat(peer)["choices.0.message.content"]
    tokens = peer.post("/tokenize", content=greedy)["tokens"]
    answer = _chat(peer, logit_bias={str(token): -100 for token in tokens})
    return {"status": answer.status, "content": answer["choices.0.message.content"]}


def _too_long(peer: Peer) -> Facts:
    answer = _chat(peer, _LONG_BOOK)
    return {"status": answer.status, "error": isinstance(answer["error.message"], str)}


def _too_long_form(peer: Peer) -> Facts:
    error = _chat(peer, _LONG_BOOK)["error"]
    return {"type": error["type"], "n_ctx": error.get("n_ctx")}


def _too_long_stream(peer: Peer) -> Facts:
    (event,) = _chunks(peer, messages=_LONG_BOOK)
    return {"status": event["status"], "error": isinstance(event["error"]["message"], str)}


def _choices(peer: Peer) -> Facts:
    answer = _chat(peer, n=2, id_slot=0)
    choices = answer["choices"]
    return {
        "status": answer.status,
        "n": len(choices),
        "indices": sorted(choice["index"] for choice in choices),
        "texts": [choice["message"]["content"] for choice in choices],
    }


def _input_tokens(peer: Peer) -> Facts:
    answer = peer.post("/chat/completions/input_tokens", messages=_BOOK)
    return {"status": answer.status, "input_tokens": answer["input_tokens"]}


def _timings(peer: Peer) -> Facts:
    events = _chunks(peer, stream_options={"include_usage": True})
    told, whole = events[-1]["timings"], _chat(peer)["timings"]
    return {
        "names": sorted(told),
        "prompt": told["prompt_n"] + told["cache_n"],
        "predicted_n": told["predicted_n"],
        "names of the whole answer": sorted(whole),
        "predicted_n of the whole answer": whole["predicted_n"],
    }


def _timings_per_token(peer: Peer) -> Facts:
    events = _chunks(peer, timings_per_token=True)
    counts = [event["timings"]["predicted_n"] for event in events if "timings" in event]
    return {"in the first event": "timings" in events[0], "rising": counts == sorted(counts), "last": counts[-1]}


def _progress(peer: Peer) -> Facts:
    messages = [{"role": "user", "content": "This is a test. " * 60}]
    events = _chunks(peer, messages=messages, return_progress=True)
    told = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    done = [each["processed"] for each in told]
    return {
        "names": sorted(told[0]),
        "total": told[-1]["total"],
        "begins with the cache": told[0]["processed"] == told[0]["cache"],
        "rising": done == sorted(done),
        "ends with all": done[-1] == told[-1]["total"],
    }


def _verbose(peer: Peer) -> Facts:
    told = _chat(peer, verbose=True)["__verbose"]
    return {"names": sorted(told), "prompt": told["prompt"], "content": told["content"]}


def _template(peer: Peer) -> Facts:
    answer = peer.post("/apply-template", messages=_BOOK)
    return {"status": answer.status, "prompt": answer["prompt"]}


def _chat_prompt(peer: Peer) -> Facts:
    """The chat's tokens are those of what /apply-template gives: what llama.cpp's tests see in `__verbose`."""
    prompt = peer.post("/apply-template", messages=_BOOK)["prompt"]
    n_tokens = len(peer.post("/tokenize", content=prompt, add_special=True)["tokens"])
    return {"n": n_tokens, "same": _chat(peer)["usage.prompt_tokens"] == n_tokens}


_BEGUN = [*_BOOK, {"role": "assistant", "content": "Once upon"}]


def _said(chunks: Sequence[Mapping[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def _prefilled(peer: Peer) -> Facts:
    answer, chunks = _chat(peer, _BEGUN), _chunks(peer, messages=_BEGUN)
    return {
        "status": answer.status,
        "content": answer["choices.0.message.content"],
        "of a stream": _said(chunks),
        "prompt": peer.post("/apply-template", messages=_BEGUN)["prompt"],
    }


def _continued(peer: Peer) -> Facts:
    fields = {"add_generation_prompt": False, "continue_final_message": True}
    return {
        "content": _chat(peer, _BEGUN, **fields)["choices.0.message.content"],
        "of a stream": _said(_chunks(peer, messages=_BEGUN, **fields)),
        "of a stream that echoes": _said(_chunks(peer, messages=_BEGUN, echo=True, **fields)),
        "prompt": peer.post("/apply-template", messages=_BEGUN, **fields)["prompt"],
    }


def _continued_with_schema(peer: Peer) -> Facts:
    begun = [*_BOOK, {"role": "assistant", "content": '{"a":'}]
    return {"status": _chat(peer, begun, response_format={"type": "json_object"}).status}


def _continued_calls(peer: Peer) -> Facts:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return {"status": _chat(peer, [*_BOOK, {"role": "assistant", "content": "a", "tool_calls": [call]}]).status}


def _without_generation_prompt(peer: Peer) -> Facts:
    answer = peer.post("/apply-template", messages=_BOOK, add_generation_prompt=False)
    return {"status": answer.status, "prompt": answer["prompt"]}


def _with_thinking_off(peer: Peer) -> Facts:
    fields = {"chat_template_kwargs": {"enable_thinking": False}}
    return {"prompt": peer.post("/apply-template", messages=_BOOK, **fields)["prompt"]}


CHAT: tuple[Check, ...] = (
    Check((f"{_FILE}test_chat_completion", f"{_FILE}test_chat_completion_with_openai_library"), _ROUTE,
          "the answer: text, role, finish reason, counts of tokens, id; also without `/v1`", _whole),
    Check((f"{_FILE}test_chat_completion",), _ROUTE, "`system_fingerprint` begins with `b`", _fingerprint,
          "it is the build of llama.cpp that computes, as that library tells it"),
    Check((f"{_FILE}test_chat_completion",), _ROUTE, "a message in one part", _one_part),
    Check((f"{_FILE}test_chat_completion",), _ROUTE, "a message in several parts", _parts,
          "parts are one text; llama-server puts a line's end between them"),
    Check((f"{_FILE}test_chat_completion_cached_tokens",), _ROUTE, "`cached_tokens` of a prompt that came before", _cached),
    Check((f"{_FILE}test_chat_completion_stream",), _ROUTE, "a stream: role once, text, finish reason, one id", _stream),
    Check((f"{_FILE}test_chat_completion_stream", f"{_FILE}test_logprobs_stream",
           f"{_FILE}test_chat_completion_with_timings_per_token"), _ROUTE,
          "the first delta's `content` is null", _first_content, "it is an empty text, as with OpenAI"),
    Check((f"{_FILE}test_chat_completion_stream",), _ROUTE, "`include_usage`: a last event with the counts", _stream_usage),
    Check((f"{_FILE}test_completion_with_response_format",), _ROUTE, "`json_object` with a `schema`, a constant",
          _of_format({"type": "json_object", "schema": {"const": "42"}}, max_tokens=12)),
    Check((f"{_FILE}test_completion_with_response_format",), _ROUTE, "`json_schema`, a constant",
          _of_format({"type": "json_schema", "json_schema": {"schema": {"const": "foooooo"}}}, max_tokens=20)),
    Check((f"{_FILE}test_completion_with_response_format",), _ROUTE, "an unknown type of `response_format` is refused",
          _status_of(response_format={"type": "sound"})),
    Check((f"{_FILE}test_completion_with_response_format",), _ROUTE, "a `schema` that is none is refused",
          _status_of(response_format={"type": "json_object", "schema": 123}), "a number is no schema"),
    Check((f"{_FILE}test_completion_with_response_format",), _ROUTE, "an unknown `type` within a schema is refused",
          _status_of(response_format={"type": "json_object", "schema": {"type": "hiccup"}})),
    Check((f"{_FILE}test_completion_with_json_schema",), _ROUTE, "llama-server's own `json_schema`", _json_schema),
    Check((f"{_FILE}test_completion_with_grammar",), _ROUTE, "`grammar`", _grammar),
    Check((f"{_FILE}test_completion_with_grammar",), _ROUTE, "`completion_tokens` of an answer that ended by itself",
          _n_of_ended, "the token that says the end is not counted, as it is no part of the answer"),
    Check((f"{_FILE}test_completion_with_invalid_grammar",), _ROUTE, "a grammar that does not parse is refused",
          _status_of(grammar="root ::= this is (not valid GBNF")),
    Check((f"{_FILE}test_invalid_chat_completion_req",), _ROUTE, "messages that are none are refused", _invalid_messages),
    Check((f"{_FILE}test_invalid_chat_completion_req",), _ROUTE, "with which status", _invalid_status,
          "always 400: it is the client's fault"),
    Check((f"{_FILE}test_invalid_chat_completion_req",), _ROUTE, "two messages of the assistant at the end are refused",
          _two_assistants),
    Check((f"{_FILE}test_logprobs",), _ROUTE, "`logprobs` and `top_logprobs`: tokens, bytes, values, rivals", _logprobs),
    Check((f"{_FILE}test_logprobs_stream",), _ROUTE, "the same in a stream", _logprobs_stream),
    Check((f"{_FILE}test_logit_bias",), _ROUTE, "`logit_bias` by token ids keeps them out", _logit_bias),
    Check((f"{_FILE}test_context_size_exceeded",), _ROUTE, "messages beyond the context are refused", _too_long),
    Check((f"{_FILE}test_context_size_exceeded",), _ROUTE, "how that error is told", _too_long_form,
          "OpenAI's `code` says it, `context_length_exceeded`; the sentence has the numbers"),
    Check((f"{_FILE}test_context_size_exceeded_stream",), _ROUTE, "the same for a stream, before it begins", _too_long_stream),
    Check((f"{_FILE}test_chat_completions_multiple_choices",), _ROUTE, "`n` of 2", _choices),
    Check((f"{_FILE}test_chat_completion_with_timings_per_token",), _ROUTE,
          "`timings` of an answer, and in the last event of a stream", _timings),
    Check((f"{_FILE}test_chat_completion_with_timings_per_token",), _ROUTE, "`timings_per_token`", _timings_per_token),
    Check((f"{_FILE}test_return_progress",), _ROUTE, "`return_progress`", _progress),
    Check((f"{_FILE}test_verbose_debug", f"{_FILE}test_chat_template"), _ROUTE, "`verbose` shows the prompt", _verbose),
    Check((f"{_FILE}test_chat_template",), _ROUTE, "the prompt is what the template makes of the messages", _chat_prompt),
    Check((f"{_FILE}test_chat_template_assistant_prefill",), _ROUTE,
          "a last message of the assistant is gone on with: whole, in a stream, and its prompt", _prefilled),
    Check((f"{_FILE}test_chat_template_assistant_prefill",), _ROUTE, "one with `tool_calls` is not", _continued_calls),
    Check((f"{_FILE}test_chat_template_assistant_prefill",), _ROUTE, "one that is to be held by a schema",
          _continued_with_schema, "refused: the schema would have to know what is said already"),
    Check((f"{_FILE}test_chat_template_continue_final_message_vllm_compat",), _ROUTE, "`continue_final_message`",
          _continued),
    Check((f"{_FILE}test_chat_template_continue_final_message_mutual_exclusion",), _ROUTE,
          "`continue_final_message` with `add_generation_prompt` is refused",
          _status_of(add_generation_prompt=True, continue_final_message=True)),
    Check((f"{_FILE}test_chat_completions_token_count",), "POST /v1/chat/completions/input_tokens",
          "the number of a prompt's tokens", _input_tokens),
    Check((f"{_FILE}test_apply_chat_template",), "POST /apply-template", "the prompt that messages become", _template),
    Check(("test_template.py::test_add_generation_prompt",), "POST /apply-template", "`add_generation_prompt` of false",
          _without_generation_prompt),
    Check(("test_template.py::test_reasoning", "test_template.py::test_date_inside_prompt"), "POST /apply-template",
          "`chat_template_kwargs` (the templates of llama.cpp's tests are of models that we do not have here; "
          "`tests/native/test_chat_template.py` has `strftime_now`)", _with_thinking_off),
)  # fmt: skip
