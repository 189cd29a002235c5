# SPDX-License-Identifier: MIT
"""What llama.cpp's tests check of completions. Most ask its own `/completion`; what can be asked of both is asked of
`/v1/completions` here, with greedy texts.
"""

from __future__ import annotations

import time
from typing import Any

from comparison.check import Check, Facts
from comparison.peer import Peer
from comparison.servers import N_CTX

_ROUTE = "POST /v1/completions"
_OWN = "POST /completion"
_FILE = "test_completion.py::"
_SHIFT = "test_ctx_shift.py::"
_MEANING = "I believe the meaning of life is"


def _complete(peer: Peer, prompt: object = _MEANING, **fields: object) -> Any:  # noqa: ANN401 -- an answer
    return peer.post("/v1/completions", **({"prompt": prompt, "temperature": 0, "max_tokens": 8} | fields))


def _text(peer: Peer, **fields: object) -> str | None:
    text: str | None = _complete(peer, **fields)["choices.0.text"]
    return text


def _own(peer: Peer, prompt: object = _MEANING, **fields: object) -> Any:  # noqa: ANN401 -- an answer
    return peer.post("/completion", **({"prompt": prompt, "n_predict": 8, "temperature": 0} | fields))


_COMPARED = ("content", "tokens", "stop", "stop_type", "stopping_word", "tokens_predicted", "tokens_evaluated",
             "tokens_cached", "truncated", "has_new_line", "prompt", "model", "index")  # fmt: skip


def _own_form(peer: Peer) -> Facts:
    answer = _own(peer, return_tokens=True)
    return {name: answer[name] for name in _COMPARED} | {"names": sorted(answer.body), "status": answer.status}


def _own_stream(peer: Peer) -> Facts:
    events = peer.stream("/completions", prompt=_MEANING, n_predict=8, temperature=0)
    return {
        "contents": [event["content"] for event in events],
        "tokens": [event["tokens"] for event in events],
        "stop": [event["stop"] for event in events],
        "last": {name: events[-1][name] for name in _COMPARED if name != "tokens_cached"},
        "names": [sorted(event) for event in (events[0], events[-1])],
    }


def _own_settings(peer: Peer) -> Facts:
    """Those that a request sets, and the names of all."""
    fields = {"seed": 7, "top_k": 5, "top_p": 0.5, "min_p": 0.25, "n_keep": 3, "stop": ["~"], "n_probs": 2}
    told = _own(peer, **fields)["generation_settings"]
    return {name: told[name] for name in (*fields, "n_predict", "stream")} | {"names": sorted(told)}


def _own_prompts(peer: Peer) -> Facts:
    tokens = _tokens(peer)
    prompts = [_MEANING, tokens, [*tokens, " a llama", 8], {"prompt_string": _MEANING}]
    return {"contents": [answer["content"] for answer in _own(peer, prompts).body]}


def _own_stop(peer: Peer) -> Facts:
    word = (_own(peer, n_predict=40)["content"]).split()[3]
    answer = _own(peer, n_predict=40, stop=[word])
    return {name: answer[name] for name in ("content", "stop_type", "stopping_word", "tokens_predicted")}


def _own_end(peer: Peer) -> Facts:
    answer = _own(peer, grammar='root ::= "ab"', return_tokens=True)
    return {name: answer[name] for name in ("content", "stop_type", "tokens_cached")}


def _own_end_counted(peer: Peer) -> Facts:
    return {"tokens_predicted": _own(peer, grammar='root ::= "ab"')["tokens_predicted"]}


def _own_timings(peer: Peer) -> Facts:
    told = _own(peer)["timings"]
    return {"names": sorted(told), "prompt": told["prompt_n"] + told["cache_n"], "predicted_n": told["predicted_n"]}


def _whole(peer: Peer) -> Facts:
    answer = _complete(peer)
    names = ("choices.0.text", "choices.0.finish_reason", "usage.prompt_tokens", "usage.completion_tokens", "object")
    return {name: answer[name] for name in names} | {"status": answer.status}


def _long(peer: Peer) -> Facts:
    return {"text": _text(peer, max_tokens=64)}


def _stream(peer: Peer) -> Facts:
    chunks = peer.stream("/v1/completions", prompt=_MEANING, max_tokens=8, temperature=0)
    return {
        "text": "".join(chunk["choices"][0]["text"] for chunk in chunks),
        "finish_reason": chunks[-1]["choices"][0]["finish_reason"],
        "of all before": {chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]},
    }


def _stream_and_whole(peer: Peer) -> Facts:
    return {"same": _stream(peer)["text"] == _text(peer)}


def _stops(peer: Peer) -> Facts:
    text = _text(peer, max_tokens=40) or ""
    word = text.split()[3]
    chunks = peer.stream("/v1/completions", prompt=_MEANING, max_tokens=40, temperature=0, stop=[word, "~"])
    streamed = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    return {"text": streamed, "finish_reason": chunks[-1]["choices"][0]["finish_reason"]}


def _same_seed(peer: Peer) -> Facts:
    texts = {_text(peer, seed=42, temperature=0, cache_prompt=False) for _ in range(4)}
    return {"n": len(texts), "text": texts}


def _other_seeds(peer: Peer) -> Facts:
    texts = {_text(peer, seed=seed, temperature=1.0, max_tokens=24, cache_prompt=False) for seed in range(4)}
    return {"n": len(texts)}


def _same_warm_seed(peer: Peer) -> Facts:
    texts = {_text(peer, seed=7, temperature=1.0, max_tokens=24, cache_prompt=False) for _ in range(2)}
    return {"n": len(texts), "text": texts}


def _too_long(peer: Peer) -> Facts:
    answer = _complete(peer, _MEANING * 200)
    return {"status": answer.status, "error": isinstance(answer["error.message"], str)}


def _tokens(peer: Peer) -> list[int]:
    tokens: list[int] = peer.post("/tokenize", content=_MEANING, add_special=True)["tokens"]
    return tokens


def _token_prompts(peer: Peer) -> Facts:
    tokens = _tokens(peer)
    one, many = _complete(peer, tokens), _complete(peer, [tokens, tokens])
    return {
        "one": one["choices.0.text"],
        "many": [choice["text"] for choice in sorted(many["choices"], key=lambda each: each["index"])],
    }


def _mixed_prompts(peer: Peer) -> Facts:
    answer = _complete(peer, [_tokens(peer), _MEANING])
    return {"texts": [choice["text"] for choice in answer["choices"]]}


def _mixed_prompt(peer: Peer) -> Facts:
    answer = _complete(peer, [5, 6, 7, "a llama", 8, "walks"])
    return {"status": answer.status, "text": answer["choices.0.text"]}


def _object_prompt(peer: Peer) -> Facts:
    answer = _complete(peer, {"prompt_string": _MEANING})
    return {"status": answer.status, "text": answer["choices.0.text"]}


def _media(peer: Peer) -> Facts:
    answer = _complete(peer, {"prompt_string": f"{_MEANING} <__media__>", "multimodal_data": ["AAAA"]})
    return {"refused": answer.status != 200}


def _logprobs(peer: Peer) -> Facts:
    told = _complete(peer, max_tokens=5, logprobs=3)["choices.0.logprobs"]
    return {"form": sorted(told)}


def _logprob_values(peer: Peer) -> Facts:
    """In whichever of the two forms."""
    told = _complete(peer, max_tokens=5, logprobs=3)["choices.0.logprobs"]
    if "content" in told:
        return {"values": [round(entry["logprob"], 3) for entry in told["content"]]}
    return {"values": [round(value, 3) for value in told["token_logprobs"]]}


def _logit_bias(peer: Peer) -> Facts:
    tokens = peer.post("/tokenize", content=_text(peer))["tokens"]
    as_pairs = _text(peer, logit_bias=[[token, -100] for token in tokens])
    return {"pairs": as_pairs, "map": _text(peer, logit_bias={str(token): -100 for token in tokens})}


def _logit_bias_texts(peer: Peer) -> Facts:
    words = [f" {word}" for word in (_text(peer) or "").split()]
    as_pairs = _text(peer, logit_bias=[[word, -100] for word in words])
    return {"pairs": as_pairs, "map": _text(peer, logit_bias=dict.fromkeys(words, -100))}


def _response_fields(peer: Peer) -> Facts:
    fields = ["content", "generation_settings/n_predict", "timings/predicted_n", "nothing"]
    return {"told": _own(peer, response_fields=fields).body}


def _post_sampling(peer: Peer) -> Facts:
    return {"status": _own(peer, n_probs=3, post_sampling_probs=True).status}


def _likely(entries: Any) -> list[Any]:  # noqa: ANN401 -- JSON
    return [
        (
            each["id"],
            each["token"],
            each["bytes"],
            round(each["logprob"], 3),
            [top["id"] for top in each["top_logprobs"]],
        )
        for each in entries
    ]


def _own_probabilities(peer: Peer) -> Facts:
    whole = _likely(_own(peer, n_probs=3, cache_prompt=False)["completion_probabilities"])
    events = peer.stream("/completion", prompt=_MEANING, n_predict=8, temperature=0, n_probs=3, cache_prompt=False)
    streamed = [entry for event in events for entry in _likely(event.get("completion_probabilities", []))]
    return {"whole": whole, "of a stream": streamed}


def _cancelled(peer: Peer) -> Facts:
    grammar = 'root ::= "ab" root'
    peer.break_off("/v1/completions", 0.05, prompt=_MEANING, max_tokens=N_CTX - 32, grammar=grammar)
    for _ in range(40):
        slots = peer.get("/slots").body
        if not any(slot["is_processing"] for slot in slots):
            break
        time.sleep(0.05)
    return {"is_processing": [slot["is_processing"] for slot in slots]}


def _cached(peer: Peer) -> Facts:
    texts = []
    for number in (0, 3, 1, 0, 3):
        answer = _complete(peer, f" Hello {number}" * 20)
        texts.append((answer["choices.0.text"], answer["usage.prompt_tokens"]))
    return {"texts": texts}


def _until_full(peer: Peer) -> Facts:
    grammar = 'root ::= "ab" root'
    answer = _complete(peer, "Hi how are you", n_predict=-1, max_tokens=None, grammar=grammar)
    usage = answer["usage"]
    return {"finish_reason": answer["choices.0.finish_reason"], "n": usage["total_tokens"]}


def _n_predict(peer: Peer) -> Facts:
    answer = _complete(peer, "Hi how are you", n_predict=16, max_tokens=None, grammar='root ::= "ab" root')
    return {"n": answer["usage.completion_tokens"], "finish_reason": answer["choices.0.finish_reason"]}


def _ignore_eos(peer: Peer) -> Facts:
    answer = _own(peer, ignore_eos=True, n_predict=64)
    return {"content": answer["content"], "logit_bias": answer["generation_settings.logit_bias"]}


def _ignore_eos_false(peer: Peer) -> Facts:
    return {"status": _complete(peer, ignore_eos=False).status, "text": _text(peer, ignore_eos=False)}


COMPLETIONS: tuple[Check, ...] = (
    Check((f"{_FILE}test_completion",), _OWN, "the answer: text, tokens, counts, why it ended, the prompt", _own_form),
    Check((f"{_FILE}test_completion_stream",), _OWN, "a stream, from `/completions`", _own_stream),
    Check((f"{_FILE}test_completion_stream",), _OWN, "`generation_settings`", _own_settings),
    Check((f"{_FILE}test_completion", "test_metrics.py::test_metrics_timings_are_finite"), _OWN, "`timings`", _own_timings),
    Check((f"{_FILE}test_completion",), _OWN, "`stop`, and the word that it was", _own_stop),
    Check((f"{_FILE}test_completion",), _OWN, "an answer that the model ends", _own_end),
    Check((f"{_FILE}test_completion",), _OWN, "`tokens_predicted` of an answer that the model ends", _own_end_counted,
          "the token that says the end is not counted, as it is no part of the answer"),
    Check((f"{_FILE}test_completion_with_tokens_input",), _OWN, "several prompts, in every form", _own_prompts),
    Check((f"{_FILE}test_completion_response_fields",), _OWN, "`response_fields`", _response_fields),
    Check((f"{_FILE}test_n_probs", f"{_FILE}test_n_probs_stream"), _OWN, "`n_probs`, also streamed", _own_probabilities),
    Check((f"{_FILE}test_n_probs_post_sampling", f"{_FILE}test_n_probs_post_backend_sampling"), _OWN,
          "`post_sampling_probs`", _post_sampling, "refused: probabilities are those before sampling"),
    Check((f"{_FILE}test_completion", f"{_FILE}test_completion_with_openai_library"), _ROUTE,
          "the answer: text, finish reason, counts of tokens", _whole),
    Check((f"{_FILE}test_completion",), _ROUTE, "a longer text", _long),
    Check((f"{_FILE}test_completion_stream", f"{_FILE}test_completion_stream_with_openai_library"), _ROUTE,
          "a stream: text, finish reason in the last event alone", _stream),
    Check((f"{_FILE}test_completion_stream_vs_non_stream",), _ROUTE, "a stream is what the whole answer is",
          _stream_and_whole),
    Check((f"{_FILE}test_completion_stream_with_openai_library_stops",), _ROUTE, "`stop` in a stream", _stops),
    Check((f"{_FILE}test_consistent_result_same_seed", f"{_FILE}test_consistent_result_different_batch_size"), _ROUTE,
          "the same seed, the same greedy text", _same_seed),
    Check((f"{_FILE}test_consistent_result_same_seed",), _ROUTE, "the same seed, the same text at temperature 1",
          _same_warm_seed),
    Check((f"{_FILE}test_different_result_different_seed",), _ROUTE, "another seed, another text", _other_seeds),
    Check((f"{_FILE}test_nocache_long_input_prompt", f"{_SHIFT}test_ctx_shift_disabled_long_prompt"), _ROUTE,
          "a prompt beyond the context is refused", _too_long),
    Check((f"{_FILE}test_completion_with_tokens_input",), _ROUTE, "token ids, and lists of them", _token_prompts),
    Check((f"{_FILE}test_completion_with_tokens_input",), _ROUTE, "lists of token ids beside texts", _mixed_prompts),
    Check((f"{_FILE}test_completion_with_tokens_input",), _ROUTE, "one prompt of texts and token ids", _mixed_prompt),
    Check((f"{_FILE}test_json_prompt_no_mtmd", f"{_FILE}test_completion_with_tokens_input"), _ROUTE,
          "an object with `prompt_string`", _object_prompt),
    Check((f"{_FILE}test_json_prompt_mtm_error_when_not_supported",), _ROUTE, "images are refused", _media),
    Check((f"{_FILE}test_n_probs",), _ROUTE, "`logprobs`: their values", _logprob_values),
    Check((f"{_FILE}test_n_probs", f"{_FILE}test_n_probs_stream"), _ROUTE, "`logprobs`: their form", _logprobs,
          "it is that of OpenAI's completions; llama-server's is that of chats"),
    Check((f"{_FILE}test_logit_bias",), _ROUTE, "`logit_bias` as pairs and as a map", _logit_bias),
    Check((f"{_FILE}test_logit_bias",), _ROUTE, "`logit_bias` of texts", _logit_bias_texts),
    Check((f"{_FILE}test_cancel_request", f"{_FILE}test_completion_parallel_slots"), _ROUTE,
          "a client that hangs up frees its slot", _cancelled),
    Check((f"{_FILE}test_completion_prompt_cache", f"{_FILE}test_cache_vs_nocache_prompt",
           f"{_FILE}test_completion_unified"), _ROUTE, "prompts that begin alike, in and out of the cache", _cached),
    Check((f"{_SHIFT}test_ctx_shift_disabled_short_prompt", f"{_SHIFT}test_ctx_shift_disabled_stream",
           f"{_SHIFT}test_ctx_shift_enabled"), _ROUTE,
          "a text ends when its context is full (`--context-shift`: `tests/line/test_context_shift.py`)", _until_full),
    Check((f"{_SHIFT}test_ctx_shift_disabled_short_prompt",), _ROUTE, "`n_predict`", _n_predict),
    Check(("test_ignore_eos.py::test_ignore_eos_populates_logit_bias",), _ROUTE, "`ignore_eos`", _ignore_eos),
    Check(("test_ignore_eos.py::test_ignore_eos_false_no_logit_bias",), _ROUTE, "`ignore_eos` of false",
          _ignore_eos_false),
)  # fmt: skip
