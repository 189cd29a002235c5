# SPDX-License-Identifier: MIT
"""What llama.cpp's tests check of tools, embeddings and the Responses API."""

from __future__ import annotations

import json
import math
from typing import Any

from comparison.check import Check, Facts
from comparison.peer import Peer

_TOOLS = "test_tool_call.py::"
_EMBED = "test_embedding.py::"
_RESPOND = "test_compat_oai_responses.py::"
_CHAT = "POST /v1/chat/completions, tools"
_ASK = [{"role": "system", "content": "You are a coding assistant."}, {"role": "user", "content": "Write an example"}]
_TEST_TOOL = {
    "type": "function",
    "function": {
        "name": "test",
        "description": "",
        "parameters": {
            "type": "object",
            "properties": {"success": {"type": "boolean", "const": True}},
            "required": ["success"],
        },
    },
}
_TEXTS = ["I believe the meaning of life is", "Write a joke about AI", "This is a test", "This is another test"]


# ---- tools ----


def _with_tool(peer: Peer, **fields: object) -> Any:  # noqa: ANN401 -- an answer
    body = {"messages": _ASK, "tools": [_TEST_TOOL], "temperature": 0, "max_tokens": 300, "parallel_tool_calls": False}
    return peer.post("/v1/chat/completions", **(body | fields))


def _required(peer: Peer) -> Facts:
    answer = _with_tool(peer, tool_choice="required")
    (call,) = answer["choices.0.message.tool_calls"]
    return {
        "status": answer.status,
        "name": call["function"]["name"],
        "arguments": json.loads(call["function"]["arguments"]),
        "type": call["type"],
        "has an id": bool(call["id"]),
        "finish_reason": answer["choices.0.finish_reason"],
    }


def _streamed(peer: Peer) -> Facts:
    body = {"messages": _ASK, "tools": [_TEST_TOOL], "tool_choice": "required", "temperature": 0, "max_tokens": 300}
    events = peer.stream("/v1/chat/completions", **body, parallel_tool_calls=False)
    choices = [choice for event in events for choice in event["choices"]]
    deltas = [call for choice in choices for call in choice["delta"].get("tool_calls") or ()]
    return {
        "name": "".join(delta["function"].get("name") or "" for delta in deltas),
        "arguments": json.loads("".join(delta["function"].get("arguments") or "" for delta in deltas)),
        "finish_reason": choices[-1]["finish_reason"],
    }


def _without(peer: Peer) -> Facts:
    answer = _with_tool(peer, tool_choice="none", max_tokens=16)
    return {"status": answer.status, "calls": answer["choices.0.message.tool_calls"]}


def _result(peer: Peer) -> Facts:
    call = {"id": "123456789", "type": "function", "function": {"name": "test", "arguments": '{"success": true}'}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "name": "test", "content": "0.5", "tool_call_id": "123456789"}
    _with_tool(peer, max_tokens=1)  # whether there are tools at all
    answer = _with_tool(peer, messages=[*_ASK, said, result], max_tokens=16)
    return {"status": answer.status, "role": answer["choices.0.message.role"]}


def _thoughts(peer: Peer) -> Facts:
    answer = peer.post("/v1/chat/completions", messages=_ASK, temperature=0, max_tokens=16, reasoning_format="none")
    return {"status": answer.status, "content": answer["choices.0.message.content"]}


# ---- embeddings ----


def _embed(peer: Peer, given: object, **fields: object) -> Any:  # noqa: ANN401 -- an answer
    return peer.post("/v1/embeddings", input=given, **fields)


def _one(peer: Peer) -> Facts:
    answer = _embed(peer, _TEXTS[0])
    vector = answer["data.0.embedding"]
    return {
        "status": answer.status,
        "n": len(answer["data"]),
        "size": len(vector),
        "of length one": abs(math.hypot(*vector) - 1) < 1e-3,
        "object": answer["object"],
    }


def _values(peer: Peer) -> Facts:
    return {"first": [round(value, 4) for value in _embed(peer, _TEXTS[0])["data.0.embedding"][:8]]}


def _many(peer: Peer) -> Facts:
    answer = _embed(peer, _TEXTS)
    return {"status": answer.status, "indices": [entry["index"] for entry in answer["data"]]}


def _token_inputs(peer: Peer) -> Facts:
    answers = [_embed(peer, given) for given in ([12, 34, 56], [[12, 34, 56], [12, 34]], ["a", "b"])]
    return {"n": [len(answer["data"]) for answer in answers]}


def _mixed_inputs(peer: Peer) -> Facts:
    given = (
        [12, 34, "string", 56],
        ["a", [12, 34]],
        {"prompt_string": "a"},
        {"content": [{"type": "text", "text": "a"}]},
    )
    answers = [_embed(peer, each) for each in given]
    return {
        "statuses": [answer.status for answer in answers],
        "n": [len(answer["data"]) for answer in answers],
        "tokens": [answer["usage.prompt_tokens"] for answer in answers],
    }


def _invalid_inputs(peer: Peer) -> Facts:
    wrong: tuple[object, ...] = ([], {"content": "string"}, {"content": [{"type": "unknown"}]})
    return {"refused": [_embed(peer, each).status != 200 for each in wrong], "not": _embed(peer, "a").status}


def _too_long_input(peer: Peer) -> Facts:
    answer = _embed(peer, "This is a test " * 512)
    told = isinstance(answer["error.message"], str)
    return {"refused": answer.status != 200, "error": told, "not": _embed(peer, "a").status}


def _same_inputs(peer: Peer) -> Facts:
    first, second = (entry["embedding"] for entry in _embed(peer, [_TEXTS[0]] * 2)["data"])
    return {"same": all(abs(a - b) < 1e-3 for a, b in zip(first, second, strict=True))}


def _usage(peer: Peer) -> Facts:
    return {"usage": [_embed(peer, given)["usage"] for given in ("I believe", ["I believe", "This is a test"])]}


def _base64(peer: Peer) -> Facts:
    answer = _embed(peer, _TEXTS[0], encoding_format="base64")
    return {"status": answer.status, "a text": isinstance(answer["data.0.embedding"], str)}


def _own_vectors(peer: Peer) -> Facts:
    told = [peer.post("/embeddings", input=each).body for each in (_TEXTS[0], _TEXTS[:2])]
    return {
        "names": sorted(told[0][0]),
        "n": [[len(item["embedding"]) for item in each] for each in told],
        "first": [round(value, 4) for value in told[0][0]["embedding"][0][:8]],
        "indices": [item["index"] for item in told[1]],
    }


def _own_vectors_by_content(peer: Peer) -> Facts:
    answers = [peer.post(path, content=_TEXTS[0]).body for path in ("/embedding", "/v1/embeddings")]
    return {"first": [[round(value, 4) for value in each[0]["embedding"][0][:8]] for each in answers]}


# ---- responses ----


def _respond(peer: Peer) -> Facts:
    answer = peer.post("/v1/responses", input=_ASK, max_output_tokens=16, temperature=0)
    return {
        "status": answer.status,
        "id": answer["id"][:5],
        "object": answer["object"],
        "output": [(item["type"], item["id"][:4]) for item in answer["output"]],
        "text": answer["output.0.content.0.text"],
    }


def _respond_stream(peer: Peer) -> Facts:
    events = peer.stream("/v1/responses", input=_ASK, max_output_tokens=16, temperature=0)
    kinds = [event["type"] for event in events]
    return {
        "kinds": list(dict.fromkeys(kinds[:-1])),
        "text": "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta"),
    }


def _respond_timings(peer: Peer) -> Facts:
    fields: dict[str, object] = {"timings_per_token": True, "return_progress": True}
    events = peer.stream("/v1/responses", input=_ASK, max_output_tokens=16, **fields)
    last = [event for event in events if "timings" in event][-1]
    progress = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    return {
        "timings": sorted(last["timings"]),
        "in": last["type"].partition(".")[0],
        "predicted_n": last["timings"]["predicted_n"],
        "progress": sorted(progress[0]),
        "all": progress[-1]["processed"] == progress[-1]["total"],
    }


_FORCED = "a call that is demanded is made, whatever the model would say; llama-server answers text with this model"

FEATURES: tuple[Check, ...] = (
    Check((f"{_TOOLS}test_completion_with_required_tool_real_model", f"{_TOOLS}test_weather"), _CHAT,
          "`tool_choice` of `required`: one call, its name, arguments by their schema", _required, _FORCED),
    Check((f"{_TOOLS}test_completion_with_required_tool_real_model", f"{_TOOLS}test_hello_world"), _CHAT,
          "the same in a stream", _streamed, _FORCED),
    Check((f"{_TOOLS}test_completion_without_tool_call_fast", f"{_TOOLS}test_completion_without_tool_call_slow"), _CHAT,
          "`tool_choice` of `none`: no call", _without),
    Check((f"{_TOOLS}test_calc_result",), _CHAT, "a call's result goes back to the model", _result),
    Check((f"{_TOOLS}test_thoughts",), _CHAT, "`reasoning_format` of `none`, with a model that does not think", _thoughts),
    Check((f"{_EMBED}test_embedding_single", f"{_EMBED}test_embedding_openai_library_single",
           f"{_EMBED}test_embedding_pooling_mean"), "POST /v1/embeddings", "a text: a vector of length 1", _one),
    Check((f"{_EMBED}test_embedding_pooling_mean",), "POST /v1/embeddings", "its values (mean pooling)", _values),
    Check((f"{_EMBED}test_embedding_multiple", f"{_EMBED}test_embedding_openai_library_multiple",
           f"{_EMBED}test_embedding_pooling_mean_multiple", f"{_EMBED}test_embedding_multiple_with_fa"),
          "POST /v1/embeddings", "several texts, in their order", _many),
    Check((f"{_EMBED}test_embedding_mixed_input",), "POST /v1/embeddings", "token ids, and lists of them", _token_inputs),
    Check((f"{_EMBED}test_embedding_mixed_input", f"{_EMBED}test_embedding_content_text_same_as_string"),
          "POST /v1/embeddings", "texts among token ids, and objects", _mixed_inputs),
    Check((f"{_EMBED}test_embedding_invalid_input",), "POST /v1/embeddings", "what is no input is refused",
          _invalid_inputs),
    Check((f"{_EMBED}test_embedding_error_prompt_too_long",), "POST /v1/embeddings", "a text that is too long is refused",
          _too_long_input),
    Check((f"{_EMBED}test_same_prompt_give_same_result",), "POST /v1/embeddings", "the same text, the same vector",
          _same_inputs),
    Check((f"{_EMBED}test_embedding_usage_single", f"{_EMBED}test_embedding_usage_multiple"), "POST /v1/embeddings",
          "`usage`", _usage),
    Check((f"{_EMBED}test_embedding_openai_library_base64",), "POST /v1/embeddings", "`encoding_format` of `base64`",
          _base64),
    Check((f"{_EMBED}test_embedding_pooling_none", f"{_EMBED}test_embedding_pooling_none_oai",
           "test_metrics.py::test_metrics_embedding_prompt_is_counted"), "POST /embeddings",
          "llama-server's own form (vectors of tokens: `tests/line/test_embeddings.py`)", _own_vectors),
    Check((f"{_EMBED}test_embedding_content_text_same_as_string",), "POST /embeddings",
          "the same by `content`, also of `/v1/embeddings`", _own_vectors_by_content),
    Check((f"{_RESPOND}test_responses_with_openai_library",), "POST /v1/responses", "the answer: ids, items, text",
          _respond),
    Check((f"{_RESPOND}test_responses_stream_with_openai_library",), "POST /v1/responses",
          "a stream: its events in their order, the text", _respond_stream),
    Check((f"{_RESPOND}test_responses_stream_with_llama_telemetry",), "POST /v1/responses", "`timings` and progress",
          _respond_timings),
)  # fmt: skip
