# SPDX-License-Identifier: MIT
"""What every answer carries: id, time, model, usage."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

FinishReason = Literal["stop", "length"]


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


class Answer(BaseModel):
    """The fields around the choices."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str
    system_fingerprint: str
    """The llama.cpp build that computed it."""
    usage: Usage | None = None
