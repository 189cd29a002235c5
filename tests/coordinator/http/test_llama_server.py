# SPDX-License-Identifier: MIT
"""The routes that llama-server has beside OpenAI's, of a real server, as its clients use them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from llama_cpp import Llama

from tests.coordinator.caravan_command import DEMO_MODEL, wait_until
from tests.coordinator.http.conftest import MODEL, PARALLEL

_MESSAGES = [{"role": "user", "content": "What is a llama?"}]
_LAID_OUT = "<|im_start|>user\nWhat is a llama?<|im_end|>\n<|im_start|>assistant\n"
_ENDLESS = {"prompt": "Once", "grammar": 'root ::= "ab" root', "max_tokens": 1500, "stream": True}
"""Goes on for a second: the grammar never lets it end."""


def _posted(raw: httpx.Client, path: str, **body: object) -> dict[str, Any]:
    response = raw.post(path, json=body)
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    return told


@pytest.mark.parametrize(("add_special", "parse_special"), [(False, True), (False, False), (True, True)])
def test_tokens_are_llama_cpp_s_own(raw: httpx.Client, add_special: bool, parse_special: bool) -> None:
    text = f"{_LAID_OUT}Ärger with a 🦙"
    llama = Llama(str(DEMO_MODEL), vocab_only=True, verbose=False)
    try:
        expected = llama.tokenize(text.encode(), add_bos=add_special, special=parse_special)
    finally:
        llama.close()
    body = {"content": text, "add_special": add_special, "parse_special": parse_special}
    assert _posted(raw, "/tokenize", **body)["tokens"] == expected
    assert _posted(raw, "/detokenize", tokens=expected)["content"].endswith(text)


def test_pieces_are_texts_or_bytes_and_add_up(raw: httpx.Client) -> None:
    told = _posted(raw, "/tokenize", content="a llama 🦙", with_pieces=True)["tokens"]
    pieces = [token["piece"] for token in told]
    assert any(isinstance(piece, list) for piece in pieces)
    joined = b"".join(bytes(piece) if isinstance(piece, list) else piece.encode() for piece in pieces)
    assert joined.decode().strip() == "a llama 🦙"


def test_texts_and_token_ids_may_be_mixed(raw: httpx.Client) -> None:
    one, other = (_posted(raw, "/tokenize", content=text)["tokens"] for text in ("a llama", " walks"))
    assert _posted(raw, "/tokenize", content=["a llama", 5, " walks"])["tokens"] == [*one, 5, *other]
    assert _posted(raw, "/tokenize") == {"tokens": []}
    assert _posted(raw, "/detokenize") == {"content": ""}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"content": 7}),
        ("/tokenize", {"content": [-1]}),
        ("/detokenize", {"tokens": [2_000_000_000]}),
        ("/detokenize", {"tokens": "a"}),
        ("/apply-template", {"messages": []}),
        ("/apply-template", {}),
    ],
)
def test_what_is_no_request_is_refused(raw: httpx.Client, path: str, body: dict[str, object]) -> None:
    response = raw.post(path, json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["code"] == "invalid_request"


def test_a_template_is_applied_as_a_chat_applies_it(raw: httpx.Client) -> None:
    assert _posted(raw, "/apply-template", messages=_MESSAGES) == {"prompt": _LAID_OUT}
    n_tokens = len(_posted(raw, "/tokenize", content=_LAID_OUT, add_special=True)["tokens"])
    for path in ("/v1/chat/completions/input_tokens", "/chat/completions/input_tokens"):
        assert _posted(raw, path, messages=_MESSAGES) == {"input_tokens": n_tokens}
    greedy = {"max_tokens": 8, "temperature": 0}
    answer = _posted(raw, "/chat/completions", messages=_MESSAGES, **greedy)
    assert answer["usage"]["prompt_tokens"] == n_tokens
    same = _posted(raw, "/v1/completions", prompt=_LAID_OUT, **greedy)
    assert same["choices"][0]["text"] == answer["choices"][0]["message"]["content"]


def test_the_properties_are_those_of_this_server(raw: httpx.Client) -> None:
    props = raw.get("/props").json()
    assert (props["total_slots"], props["model_alias"]) == (PARALLEL, MODEL)
    assert props["model_path"].endswith(".gguf")
    assert "<|im_start|>" in props["chat_template"]
    settings = props["default_generation_settings"]
    assert settings["n_ctx"] == 2048
    assert (settings["params"]["temperature"], settings["params"]["n_predict"]) == (pytest.approx(0.8), -1)
    assert raw.get("/models").json() == raw.get("/v1/models").json()


def test_slots_tell_who_has_them(raw: httpx.Client) -> None:
    wait_until(lambda: raw.get("/health").json()["n_running"] == 0)
    idle = raw.get("/slots").json()
    assert [slot["id"] for slot in idle] == list(range(PARALLEL))
    assert all(slot["is_processing"] is False and slot["n_ctx"] == 2048 and "params" not in slot for slot in idle)
    body = _ENDLESS | {"temperature": 0.5}
    with httpx.Client(base_url=raw.base_url) as other, raw.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        slots = other.get("/slots", params={"fail_on_no_slot": 1}).json()
    (busy,) = [slot for slot in slots if slot["is_processing"]]
    assert busy["params"]["temperature"] == 0.5
    (progress,) = busy["next_token"]
    assert progress["n_decoded"] >= 1
    assert progress["n_decoded"] + progress["n_remain"] == 1500


def test_who_wants_a_free_slot_is_told_when_there_is_none(raw: httpx.Client) -> None:
    body = _ENDLESS | {"n": PARALLEL}
    with httpx.Client(base_url=raw.base_url) as other, raw.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        refused = other.get("/slots", params={"fail_on_no_slot": 1})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_free_slot")
