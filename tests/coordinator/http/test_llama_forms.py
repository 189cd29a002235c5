# SPDX-License-Identifier: MIT
"""llama-server's own form of completions, and what answers took. Without a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
import pytest

from coordinator.chat_output import Reading
from coordinator.embeddings import Embeddings
from coordinator.generation import FinishReason, PromptProgress, Token, TopLogprob, Usage
from coordinator.http.answers import About
from coordinator.http.forms import Heading
from coordinator.http.llama_answer import Asked
from coordinator.http.llama_embeddings import llama_response
from coordinator.http.llama_form import LlamaForm
from coordinator.http.measures import timings_of
from coordinator.http.pieces import Finished, Piece
from coordinator.http.schemas.answer import CompletionTokensDetails, PromptTokensDetails
from coordinator.http.schemas.answer import Usage as ToldUsage
from coordinator.http.streaming import written_response
from coordinator.journal.records import packed

_ASKED = Asked("<s>Once", 2, {"n_predict": 3, "logit_bias": [{"bias": float("-inf"), "token": 1}]}, ("the",), n_ctx=16)
_USAGE = ToldUsage(
    prompt_tokens=2,
    completion_tokens=3,
    total_tokens=5,
    prompt_tokens_details=PromptTokensDetails(cached_tokens=0),
    completion_tokens_details=CompletionTokensDetails(accepted_prediction_tokens=0),
)


def _tokens(*texts: str) -> list[Token]:
    return [Token(number, text, text.encode(), -0.5) for number, text in enumerate(texts, 5)]


def _finished(tokens: Sequence[Token], reason: FinishReason, n_prompt: int = 2) -> Finished:
    text = "".join(token.text for token in tokens)
    return Finished(0, tokens, text, reason, Usage(n_prompt, len(tokens), cached_tokens=1), slot=3)


def _whole(form: LlamaForm, *answers: Finished) -> Any:  # noqa: ANN401 -- JSON
    return json.loads(form.whole(answers, _USAGE).model_dump_json())


def test_what_an_answer_took_is_told_as_llama_server_tells_it() -> None:
    usage = Usage(10, 5, prefill_s=0.5, decode_s=2.0, cached_tokens=6, guessed_tokens=2, drafted_tokens=7)
    told = timings_of(usage).model_dump()
    assert told == {
        "cache_n": 6, "prompt_n": 4, "prompt_ms": 500, "prompt_per_token_ms": 125, "prompt_per_second": 8,
        "predicted_n": 5, "predicted_ms": 2000, "predicted_per_token_ms": 500, "predicted_per_second": 2,
        "draft_n": 7, "draft_n_accepted": 2,
    }  # fmt: skip
    nothing = timings_of(Usage(1, 1, decode_s=0.0)).model_dump()
    assert "draft_n" not in nothing
    assert (nothing["predicted_per_second"], nothing["predicted_per_token_ms"], nothing["prompt_per_second"]) == (
        0,
        0,
        0,
    )


@pytest.mark.parametrize(
    ("texts", "shown", "reason", "kind", "word", "n_cached"),
    [
        (["a", " b", " c"], "a b c", FinishReason.LENGTH, "limit", "", 4),
        (["a", " b\n"], "a b\n", FinishReason.STOP, "eos", "", 4),
        (["a", " the"], "a ", FinishReason.STOP, "word", "the", 3),
    ],
)
def test_why_an_answer_ended_is_told(
    texts: list[str], shown: str, reason: FinishReason, kind: str, word: str, n_cached: int
) -> None:
    tokens = [Token(number, "", text.encode()) for number, text in enumerate(texts)]
    tokens[-1] = Token(tokens[-1].id, shown, tokens[-1].piece)
    told = _whole(LlamaForm("m", [_ASKED]), _finished(tokens, reason))
    assert (told["stop_type"], told["stopping_word"], told["tokens_cached"]) == (kind, word, n_cached)
    assert (told["content"], told["has_new_line"], told["stop"]) == (shown, "\n" in shown, True)
    assert (told["tokens_predicted"], told["tokens_evaluated"], told["id_slot"]) == (len(texts), 2, 3)
    assert told["tokens"] == []
    assert not told["truncated"]
    # JSON has no infinity; llama-server tells none either.
    assert told["generation_settings"]["logit_bias"] == [{"bias": None, "token": 1}]


def test_a_text_that_filled_its_context_is_truncated() -> None:
    tokens = _tokens(*"abcd")
    assert _whole(LlamaForm("m", [_ASKED]), _finished(tokens, FinishReason.LENGTH, n_prompt=12))["truncated"]
    assert not _whole(LlamaForm("m", [_ASKED]), _finished(tokens, FinishReason.LENGTH, n_prompt=11))["truncated"]


def test_a_stream_says_in_pieces_what_the_whole_answer_says() -> None:
    tokens = _tokens("a", " b")
    form = LlamaForm("m", [_ASKED], with_probabilities=True, with_tokens=True)
    whole = _whole(form, _finished(tokens, FinishReason.LENGTH))
    chunks = [chunk for token in tokens for chunk in form.chunks(Piece(0, [token], token.text))]
    parts = [
        json.loads(chunk.model_dump_json())
        for chunk in (*chunks, *form.closing(_finished(tokens, FinishReason.LENGTH)))
    ]
    assert [part["stop"] for part in parts] == [False, False, True]
    assert "".join(part["content"] for part in parts) == whole["content"]
    assert [token for part in parts for token in part["tokens"]] == whole["tokens"] == [5, 6]
    assert [part["tokens_predicted"] for part in parts] == [1, 2, 2]
    likely = [each for part in parts[:-1] for each in part["completion_probabilities"]]
    assert likely == whole["completion_probabilities"]
    assert likely[1] == {"id": 6, "token": " b", "bytes": [32, 98], "logprob": -0.5, "top_logprobs": []}
    assert {name: parts[-1][name] for name in ("prompt", "stop_type", "timings")} == {
        name: whole[name] for name in ("prompt", "stop_type", "timings")
    }
    assert not form.says_done


def test_only_the_fields_that_were_asked_for_are_told_and_several_answers_are_a_list() -> None:
    fields = ("content", "generation_settings/n_predict", "timings/prompt_n", "content/x", "nothing")
    form = LlamaForm("m", [_ASKED, _ASKED], fields=fields)
    told = _whole(form, _finished(_tokens("a"), FinishReason.STOP), _finished(_tokens("b"), FinishReason.STOP))
    rest = {"generation_settings/n_predict": 3, "timings/prompt_n": 1}
    assert told == [{"content": "a", **rest}, {"content": "b", **rest}]


def test_likely_tokens_are_told_and_what_of_their_bytes_is_no_text_is_left_out() -> None:
    token = Token(5, "", b"\xf0\x9f", -0.25, (TopLogprob(5, -0.25, b"\xf0\x9f"), TopLogprob(6, -2.0, b" b")))
    (told,) = _whole(LlamaForm("m", [_ASKED], with_probabilities=True), _finished([token], FinishReason.STOP))[
        "completion_probabilities"
    ]
    assert (told["token"], told["bytes"]) == ("", [0xF0, 0x9F])
    assert [top["id"] for top in told["top_logprobs"]] == [5, 6]
    assert told["top_logprobs"][1] == {"id": 6, "token": " b", "bytes": [32, 98], "logprob": -2.0}


def test_how_far_a_prompt_is_is_told_in_events_of_their_own() -> None:
    told = LlamaForm("m", [_ASKED]).progress(0, PromptProgress(20, 4, 12, 0.0125)).model_dump()
    assert told["prompt_progress"] == {"total": 20, "cache": 4, "processed": 12, "time_ms": 12}
    assert (told["content"], told["tokens"], told["stop"]) == ("", [], False)


def test_what_is_kept_of_an_answer_tells_it_again_as_it_was_asked_for() -> None:
    reading = Reading("hermes", prefix="Once", is_echoed=False)
    head = Heading(id="chatcmpl-1", created=1, model="m", system_fingerprint="b")
    about = About("chatcmpl", head, False, 1, False, reading=reading.as_record(), asked=[_ASKED.as_record()])
    kept = About(**msgpack.unpackb(packed(about.as_record())[12:]))
    whole, again = (each.form().whole([_finished(_tokens(" a"), FinishReason.STOP)], _USAGE) for each in (about, kept))
    assert whole == again
    told = json.loads(bytes(written_response(again).body))
    assert told["choices"][0]["message"]["content"] == "Once a"
    assert (told["__verbose"]["prompt"], told["timings"]["predicted_n"]) == ("<s>Once", 1)


async def test_an_input_has_one_vector_or_those_of_its_tokens() -> None:
    whole, each = np.array([0.5, 0.25], np.float32), np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    answer = await llama_response(Embeddings((whole, each), 4))
    assert json.loads(bytes(answer.body)) == [
        {"index": 0, "embedding": [[0.5, 0.25]]},
        {"index": 1, "embedding": [[1, 2], [3, 4], [5, 6]]},
    ]
