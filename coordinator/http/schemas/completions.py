# SPDX-License-Identifier: MIT
"""Bodies of `POST /v1/completions`: the request, and the answer, whose chunks have the same form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from coordinator.http.schemas.answer import Answer
from coordinator.http.schemas.refused import refusal
from coordinator.http.schemas.sampling import MAX_TOP_LOGPROBS, SamplingFields

MAX_PROMPTS = 64

Prompt = str | tuple[int | str, ...]
"""Text to be tokenized, or token ids, which texts may be among."""


def as_prompts(value: object, name: str, n_most: int) -> tuple[Prompt, ...]:
    """OpenAI's four forms of a field as one (a string, strings, token ids, lists of token ids), and llama-server's:
    token ids with texts among them, objects with a text."""
    many = value if isinstance(value, list) and not any(type(part) is int for part in value) else [value]
    prompts = tuple(filter(None, map(_as_prompt, many)))
    if len(prompts) != len(many) or not many:
        raise refusal(
            f"{name} is a string, a list of strings, token ids, or lists of token ids, with texts among them or not"
        )
    if len(prompts) > n_most:
        raise refusal(f"at most {n_most} {name}s fit a request")
    return tuple(prompt.text for prompt in prompts)


@dataclass(frozen=True, slots=True)
class _Prompt:
    """One that was understood."""

    text: Prompt


def _as_prompt(value: object) -> _Prompt | None:
    """None: it is no prompt."""
    if isinstance(value, dict):
        if value.get("multimodal_data"):
            raise refusal("only text can be read: leave out `multimodal_data`")
        return None if isinstance(value.get("prompt_string"), dict) else _as_prompt(value.get("prompt_string"))
    if isinstance(value, str):
        return _Prompt(value)
    if not isinstance(value, list) or not any(type(part) is int for part in value):
        return None
    is_known = all(isinstance(part, str) or (type(part) is int and 0 <= part < 1 << 31) for part in value)
    return _Prompt(tuple(value)) if is_known else None


def _as_prompts(value: object) -> tuple[Prompt, ...]:
    return as_prompts(value, "prompt", MAX_PROMPTS)


Prompts = Annotated[tuple[Prompt, ...], Field(min_length=1), BeforeValidator(_as_prompts)]


class CompletionRequest(SamplingFields):
    """OpenAI's completion request with llama-server's sampling fields."""

    prompt: Prompts
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
    finish_reason: Literal["stop", "length"] | None = None


class Completion(Answer):
    """The answer, and each event of a streamed one."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]
