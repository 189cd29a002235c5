# SPDX-License-Identifier: MIT
"""The body of `POST /v1/embeddings`: OpenAI's, with llama-server's `embd_normalize`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from coordinator.http.schemas.chat import as_text
from coordinator.http.schemas.completions import Prompt, as_prompts
from coordinator.http.schemas.refused import refusal
from coordinator.http.schemas.sampling import MAX_PRIORITY, MAX_TIMEOUT_S, RequestModel
from native import EUCLIDEAN

MAX_INPUTS = 2048
"""OpenAI's own."""
_MAX_NORM = 64


def _as_inputs(value: object) -> tuple[Prompt, ...]:
    many = value if isinstance(value, list) and not any(type(part) is int for part in value) else [value]
    return as_prompts([_text_of(part) for part in many], "input", MAX_INPUTS)


def _text_of(part: object) -> object:
    """An object with parts of text as that text; anything else as it is."""
    if not isinstance(part, dict) or "content" not in part:
        return part
    content = part["content"]
    return as_text(content) if isinstance(content, list) and content else None


Inputs = Annotated[tuple[Prompt, ...], BeforeValidator(_as_inputs)]


class EmbeddingsRequest(RequestModel):
    """Inputs are OpenAI's (a string, strings, token ids, lists of token ids) and llama-server's (token ids with texts
    among them, objects with a text)."""

    input: Inputs | None = None
    content: Inputs | None = None
    """llama-server's name for it, which asks for its own form of an answer."""
    model: str | None = Field(None, max_length=1024)
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(None, ge=1, le=1 << 20)
    embd_normalize: int | None = Field(EUCLIDEAN, ge=-1, le=_MAX_NORM)
    priority: int | None = Field(0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    timeout: float | None = Field(None, gt=0, le=MAX_TIMEOUT_S)

    @model_validator(mode="after")
    def _has_inputs(self) -> EmbeddingsRequest:
        if self.input is None and self.content is None:
            raise refusal("input: is missing", "input")
        return self

    @property
    def inputs(self) -> tuple[Prompt, ...]:
        return self.input or self.content or ()
