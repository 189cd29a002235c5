# SPDX-License-Identifier: MIT
"""What every answer carries: id, time, model, usage."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptTokensDetails(BaseModel):
    """Of the prompts' tokens."""

    cached_tokens: int
    """Those that were not computed again, because an earlier request began the same way."""


class CompletionTokensDetails(BaseModel):
    """Of the generated tokens."""

    accepted_prediction_tokens: int
    """Those that had been guessed, and took no trip of their own."""


class Usage(BaseModel):
    """Tokens read and generated, over all prompts and choices of the request; a prompt counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class Timings(BaseModel):
    """What an answer took, as llama-server tells it. The first generated token comes with the prompt, so speeds are
    those of the tokens after it."""

    cache_n: int
    """Tokens of the prompt that were in the cache."""
    prompt_n: int
    """The others."""
    prompt_ms: float
    """From the first frame to the first token."""
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    """From the first token to the last."""
    predicted_per_token_ms: float
    predicted_per_second: float
    draft_n: int | None = None
    """Tokens that were guessed; left out where none were."""
    draft_n_accepted: int | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class PromptProgress(BaseModel):
    """How far a prompt is, in tokens."""

    total: int
    cache: int
    """Those that were not computed again."""
    processed: int
    """Those that are done, from the cache or computed."""
    time_ms: int


class Answer(BaseModel):
    """The fields around the choices."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str
    system_fingerprint: str
    """The llama.cpp build that computed it."""
    usage: Usage | None = None
    timings: Timings | None = None
    """Of the first answer; left out of what is not its end, unless `timings_per_token` asked for it."""
    prompt_progress: PromptProgress | None = None
    """In events before the first token, for `return_progress`."""
    verbose: dict[str, Any] | None = Field(default=None, serialization_alias="__verbose")
    """The answer in llama-server's own form, for `verbose`."""

    @property
    def absent(self) -> set[str]:
        """What is left out."""
        return {name for name in ("timings", "prompt_progress", "verbose") if getattr(self, name) is None}
