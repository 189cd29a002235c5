# SPDX-License-Identifier: MIT
"""What llama.cpp's tests check of the server itself: health, properties, slots, metrics, keys, and tokens."""

from __future__ import annotations

from typing import Any

from comparison.check import Check, Facts
from comparison.peer import Peer

_BASIC = "test_basic.py::"
_TOKENS = "test_tokenize.py::"
_METRICS = "test_metrics.py::"
_SECURITY = "test_security.py::"
_FRANCE = "What is the capital of France ?"
_UNICODE = "This is a test string with unicode 媽 and emoji 🤗"
_PREFLIGHT = {
    "Origin": "http://web.mydomain.fr",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "Authorization",
}


def _health(peer: Peer) -> Facts:
    return {"statuses": [peer.get(path).status for path in ("/health", "/v1/health")]}


def _props(peer: Peer) -> Facts:
    answer = peer.get("/props")
    return {
        "status": answer.status,
        "a gguf": ".gguf" in answer["model_path"],
        **{name: answer[name] for name in ("total_slots", "model_alias", "default_generation_settings.n_ctx")},
        **{name: answer[name] for name in ("bos_token", "eos_token", "is_sleeping")},
        "chat_template": answer["chat_template"].strip(),
        "modalities": answer["modalities"],
    }


def _defaults(peer: Peer) -> Facts:
    params = peer.get("/props")["default_generation_settings.params"]
    names = ["temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "repeat_penalty", "seed"]
    names += ["presence_penalty", "frequency_penalty", "n_predict", "max_tokens"]
    return {name: round(params[name], 4) for name in names}


def _all_defaults(peer: Peer) -> Facts:
    return {"names": sorted(peer.get("/props")["default_generation_settings.params"])}


def _models(peer: Peer) -> Facts:
    answers = [peer.get(path) for path in ("/models", "/v1/models")]
    return {
        "statuses": [answer.status for answer in answers],
        "ids": [[model["id"] for model in answer["data"]] for answer in answers],
        "object": answers[0]["object"],
    }


def _aliases(peer: Peer) -> Facts:
    model = peer.get("/models")["data.0"]
    return {"aliases": model.get("aliases"), "tags": model.get("tags")}


def _slots(peer: Peer) -> Facts:
    answer = peer.get("/slots")
    return {
        "status": answer.status,
        "ids": [slot["id"] for slot in answer.body],
        "n_ctx": [slot["n_ctx"] for slot in answer.body],
        "is_processing": [slot["is_processing"] for slot in answer.body],
    }


def _idle_slots(peer: Peer) -> Facts:
    peer.post("/v1/completions", prompt="I believe", max_tokens=8)
    told = [slot["next_token"][0] for slot in peer.get("/slots").body if "next_token" in slot]
    return {"budgets": all(each["n_remain"] == -1 and each["n_decoded"] == 0 for each in told)}


def _page(peer: Peer) -> Facts:
    answer = peer.ask("GET", "/", {})
    return {"status": answer.status, "a page": "<!doctype html>" in str(answer.body).lower()}


def _metrics(peer: Peer) -> Facts:
    answer = peer.get("/metrics")
    return {
        "status": answer.status,
        "type": answer.headers["content-type"].partition(";")[0],
        "helped": "# HELP " in answer.body,
    }


def _metric_names(peer: Peer) -> Facts:
    return {"llama-server's names": "llamacpp:prompt_tokens_total" in peer.get("/metrics").body}


def _value(text: str, *names: str) -> float:
    lines = [line for line in text.splitlines() if line.startswith(names)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def _counted(peer: Peer) -> Facts:
    """What a request adds to the counters, by whichever name."""
    names = ("llamacpp:tokens_predicted_total", "caravan_generated_tokens_total{")
    before = _value(peer.get("/metrics").body, *names)
    for n_tokens in (1, 4, 16):
        peer.post("/v1/completions", prompt="I believe", max_tokens=n_tokens, grammar='root ::= "ab" root')
    return {"tokens": _value(peer.get("/metrics").body, *names) - before}


def _cached(peer: Peer) -> Facts:
    names = ("llamacpp:prompt_tokens_cached_total", "caravan_prompt_reused_tokens_total{")
    prompt = "the quick brown fox jumps over the lazy dog and then it goes home to sleep a little"
    before = _value(peer.get("/metrics").body, *names)
    usages = [peer.post("/v1/completions", prompt=prompt, max_tokens=4)["usage"] for _ in range(2)]
    n_cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    return {"counted": _value(peer.get("/metrics").body, *names) - before == n_cached > 0}


def _timings(peer: Peer) -> Facts:
    fields: dict[str, object] = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
    whole, events = peer.post("/v1/completions", **fields), peer.stream("/v1/completions", **fields)
    answers = (whole["timings"], events[-1]["timings"])
    speeds = [told[name] for told in answers for name in ("prompt_per_second", "predicted_per_second")]
    return {
        "names": [sorted(told) for told in answers],
        "prompt": [told["prompt_n"] + told["cache_n"] for told in answers],
        "finite": all(0 < speed < 1e9 for speed in speeds),
        "speed of the tokens after the first": all(
            abs(told["predicted_per_second"] * told["predicted_ms"] / 1e3 - 7) < 1e-3 for told in answers
        ),
    }


def _without_key(peer: Peer) -> Facts:
    keys: list[dict[str, str]] = [{}, {"Authorization": "Bearer invalid-key"}]
    answers = [peer.ask("POST", "/v1/completions", key, {"prompt": "a"}) for key in keys]
    return {
        "statuses": [answer.status for answer in answers],
        "errors": [answer["error"] is not None for answer in answers],
    }


def _key_error(peer: Peer) -> Facts:
    return {"type": peer.ask("POST", "/v1/completions", {}, {"prompt": "a"}).error_type}


def _with_key(peer: Peer) -> Facts:
    key = {"Authorization": f"Bearer {peer.key}"}
    return {"status": peer.ask("POST", "/v1/completions", key, {"prompt": "a", "max_tokens": 1}).status}


def _other_header(peer: Peer) -> Facts:
    return {
        "status": peer.ask("POST", "/v1/completions", {"X-Api-Key": peer.key}, {"prompt": "a", "max_tokens": 1}).status
    }


def _public(peer: Peer) -> Facts:
    return {"statuses": [peer.ask("GET", path, {}).status for path in ("/health", "/")]}


def _cors(peer: Peer) -> Facts:
    answer = peer.ask("OPTIONS", "/v1/completions", _PREFLIGHT)
    return {"allowed": answer.headers.get("access-control-allow-origin")}


def _file_image(peer: Peer) -> Facts:
    image = {"type": "image_url", "image_url": {"url": "file:///etc/hostname"}}
    answer = peer.post("/v1/chat/completions", messages=[{"role": "user", "content": [image]}])
    return {"refused": answer.status in (400, 500)}


def _tokenized(peer: Peer, **fields: Any) -> Facts:  # noqa: ANN401 -- JSON
    answer = peer.post("/tokenize", **fields)
    return {"status": answer.status, "tokens": answer["tokens"]}


def _there_and_back(peer: Peer) -> Facts:
    tokens = peer.post("/tokenize", content=_FRANCE)["tokens"]
    answer = peer.post("/detokenize", tokens=tokens)
    return {"tokens": tokens, "content": answer["content"]}


def _special(peer: Peer) -> Facts:
    text = "<|im_start|>user"
    variants = [{}, {"parse_special": False}, {"add_special": True}]
    return {str(variant): _tokenized(peer, content=text, **variant) for variant in variants}


def _mixed(peer: Peer) -> Facts:
    return _tokenized(peer, content=["a llama", 5, " walks"], add_special=True)


SERVER: tuple[Check, ...] = (
    Check((f"{_TOKENS}test_tokenize_detokenize",), "POST /tokenize", "tokens, and back with `/detokenize`", _there_and_back),
    Check((f"{_TOKENS}test_tokenize_with_bos",), "POST /tokenize", "`add_special` and `parse_special`", _special),
    Check((f"{_TOKENS}test_tokenize_with_pieces",), "POST /tokenize", "`with_pieces`: text, or bytes",
          lambda peer: _tokenized(peer, content=_UNICODE, with_pieces=True)),
    Check((f"{_TOKENS}test_tokenize_detokenize",), "POST /tokenize", "texts with token ids among them", _mixed),
    Check((f"{_BASIC}test_server_start_simple", f"{_SECURITY}test_access_public_endpoint",
           f"{_BASIC}test_server_multiple_addresses", f"{_BASIC}test_load_split_model"), "GET /health",
          "a server that is ready says so (split models: `tests/native/test_model.py`; one address is listened on)",
          _health),
    Check((f"{_BASIC}test_server_props",), "GET /props", "context, slots, names, template, special tokens", _props),
    Check((f"{_BASIC}test_server_props",), "GET /props", "what is sampled by default", _defaults),
    Check((f"{_BASIC}test_server_props",), "GET /props", "all names of `params`", _all_defaults),
    Check((f"{_BASIC}test_server_models",), "GET /v1/models", "the one model, also without `/v1`", _models),
    Check((f"{_BASIC}test_server_model_aliases_and_tags",), "GET /v1/models", "aliases and tags", _aliases,
          "a model has one name, and is answered by any"),
    Check((f"{_BASIC}test_server_slots",), "GET /slots", "slots with their contexts, and whether they are busy", _slots),
    Check((f"{_METRICS}test_metrics_slots_idle_after_completion",), "GET /slots", "an idle slot has no budget left over",
          _idle_slots),
    Check((f"{_BASIC}test_no_ui", f"{_SECURITY}test_access_static_assets_without_api_key"), "GET /",
          "the page, without a key", _page,
          "ours is always there; llama-server is built without its page here"),
    Check((f"{_METRICS}test_metrics_prometheus_format", f"{_METRICS}test_metrics_disabled"), "GET /metrics",
          "Prometheus' text with help", _metrics),
    Check((f"{_METRICS}test_metrics_prometheus_format",), "GET /metrics", "names", _metric_names,
          "ours are `caravan_...`; [which is which](metrics.md#what-llama-server-calls-them)"),
    Check((f"{_METRICS}test_metrics_predicted_total_matches_requests",), "GET /metrics",
          "generated tokens are counted exactly", _counted),
    Check((f"{_METRICS}test_metrics_prompt_processed_and_cached",), "GET /metrics",
          "tokens from the cache are counted exactly", _cached),
    Check((f"{_METRICS}test_metrics_generation_rate_excludes_first_token", f"{_METRICS}test_metrics_timings_are_finite",
           f"{_METRICS}test_metrics_timings_on_prompt_progress"), "POST /v1/completions",
          "`timings` in answers", _timings),
    Check((f"{_SECURITY}test_incorrect_api_key",), "API keys", "without a key, or with a wrong one, 401", _without_key),
    Check((f"{_SECURITY}test_incorrect_api_key",), "API keys", "the type of that error", _key_error,
          "`invalid_request_error` with the code `invalid_api_key`, as OpenAI"),
    Check((f"{_SECURITY}test_correct_api_key", f"{_SECURITY}test_openai_library_correct_api_key"), "API keys",
          "with a key, 200", _with_key),
    Check((f"{_SECURITY}test_correct_api_key_anthropic_header",), "API keys", "the header `X-Api-Key`", _other_header,
          "it belongs to Anthropic's API, which ours does not have"),
    Check((f"{_SECURITY}test_cors_options", f"{_SECURITY}test_cors_origins_localhost_reflects",
           f"{_SECURITY}test_cors_origins_localhost_rejects",
           f"{_SECURITY}test_cors_origins_defaults_to_localhost_with_tools_enabled"), "web pages of other origins",
          "may ask", _cors, "only those named by `--cors`: a page that is open somewhere must not use the model"),
    Check((f"{_SECURITY}test_local_media_file", f"{_SECURITY}test_cors_proxy_only_forwards_explicit_proxy_headers"),
          "files of the server", "an image from a file is refused (there is no proxy)", _file_image),
)  # fmt: skip
