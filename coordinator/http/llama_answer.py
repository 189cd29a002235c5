# SPDX-License-Identifier: MIT
"""An answer as llama-server's own form tells it: for `/completion`, and for `verbose` in the others. Pure. Source:
`to_json_non_oaicompat` in llama.cpp's tools/server/server-task.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from coordinator.generation import FinishReason, Token, TopLogprob
from coordinator.http.measures import timings_of
from coordinator.http.pieces import Finished, reported
from coordinator.http.schemas.llama_completion import LikelyToken, LlamaCompletion, TokenProbabilities
from coordinator.text import stop_in


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request its answer tells again.

    Attributes:
        prompt: Its text, special tokens written out.
        n_prompt: Tokens of that.
        n_ctx: Tokens of a slot.
        is_one_line: Slots have the numbers of the only line.
    """

    prompt: str
    n_prompt: int
    settings: Mapping[str, Any]
    stop: Sequence[str]
    n_ctx: int
    is_one_line: bool = True

    def as_record(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)


def completion_of(finished: Finished, asked: Asked, model: str, *, with_text: bool = True) -> LlamaCompletion:
    """The whole answer.

    Args:
        with_text: False: at the end of a stream, which has told the text and the tokens.
    """
    n_predicted, n_prompt = finished.usage.completion_tokens, finished.usage.prompt_tokens
    word = stop_in((token.piece for token in finished.tokens), asked.stop)
    kind = _stop_type(finished.reason, word)
    n_text, is_cut = n_prompt + n_predicted, finished.reason is FinishReason.LENGTH
    return LlamaCompletion(
        index=finished.index,
        content=finished.text if with_text else "",
        tokens=[token.id for token in finished.tokens] if with_text else [],
        id_slot=finished.slot if asked.is_one_line else -1,
        model=model,
        tokens_predicted=n_predicted,
        tokens_evaluated=n_prompt,
        generation_settings=dict(asked.settings),
        prompt=asked.prompt,
        has_new_line="\n" in finished.text,
        truncated=n_text > asked.n_ctx or (is_cut and n_text == asked.n_ctx),
        stop_type=kind,
        stopping_word=word if kind == "word" else "",
        tokens_cached=n_text if kind == "eos" else n_text - 1,
        timings=timings_of(finished.usage),
    )


def probabilities_of(tokens: Sequence[Token]) -> list[TokenProbabilities]:
    """What is told of the probabilities of tokens."""
    return [
        TokenProbabilities(
            **_likely(token.id, token.piece, logprob), top_logprobs=[_top(top) for top in token.top_logprobs]
        )
        for token, logprob in reported(tokens)
    ]


def _stop_type(reason: FinishReason, word: str) -> Literal["eos", "limit", "word"]:
    if reason is FinishReason.LENGTH:
        return "limit"
    return "word" if word else "eos"


def _top(top: TopLogprob) -> LikelyToken:
    return LikelyToken(**_likely(top.id, top.piece, top.logprob))


def _likely(token: int, piece: bytes, logprob: float) -> dict[str, Any]:
    return {"id": token, "token": piece.decode("utf-8", "ignore"), "bytes": list(piece), "logprob": logprob}
