# SPDX-License-Identifier: MIT
"""Bodies of `POST /v1/completions`: the request, and the answer, whose chunks have the same form."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from coordinator.http.schemas.answer import Answer, FinishReason
from coordinator.http.schemas.refused import refusal
from coordinator.http.schemas.sampling import MAX_TOP_LOGPROBS, SamplingFields

MAX_PROMPTS = 64

Prompt = str | tuple[int, ...]
"""Text to be tokenized, or token ids."""


def _is_tokens(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(type(token) is int and 0 <= token < 1 << 31 for token in value)
    )


def _as_prompts(value: object) -> tuple[Prompt, ...]:
    """OpenAI's four forms of `prompt` as one: a string, strings, token ids, lists of token ids"""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and _is_tokens(value):
        return (tuple(value),)
    if isinstance(value, list) and value and all(isinstance(p, str) or _is_tokens(p) for p in value):
        if len(value) > MAX_PROMPTS:
            raise refusal(f"at most {MAX_PROMPTS} prompts fit a request")
        return tuple(p if isinstance(p, str) else tuple(p) for p in value)
    raise refusal("prompt is a string, a list of strings, token ids, or lists of token ids")


class CompletionRequest(SamplingFields):
    """OpenAI's completion request with llama-server's sampling fields."""

    prompt: Annotated[tuple[str | Annotated[tuple[int, ...], Field()], ...], BeforeValidator(_as_prompts)]
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool | None = False


class CompletionLogprobs(BaseModel):
    """Four lists with an entry for each token; `text_offset` counts characters from the answer's start."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One answer; in a stream, a piece of it, with the finish reason in its last."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(Answer):
    """The answer, and each event of a streamed one."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]
