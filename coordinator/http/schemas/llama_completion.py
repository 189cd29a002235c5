# SPDX-License-Identifier: MIT
"""Bodies of `POST /completion`, llama-server's own form of completions. Names and meanings: tools/server/README.md and
`to_json_non_oaicompat` of server-task.cpp in llama.cpp's source.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, RootModel

from coordinator.http.schemas.answer import PromptProgress, Timings
from coordinator.http.schemas.completions import Prompts
from coordinator.http.schemas.sampling import MAX_CHOICES, MAX_TOP_LOGPROBS, SamplingFields

MAX_RESPONSE_FIELDS = 256


class LlamaCompletionRequest(SamplingFields):
    """llama-server's completion request."""

    prompt: Prompts
    n_cmpl: int | None = Field(None, ge=1, le=MAX_CHOICES)
    n_probs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    return_tokens: bool | None = False
    response_fields: Annotated[list[str] | None, Field(max_length=MAX_RESPONSE_FIELDS)] = None

    @property
    def n_choices(self) -> int:
        return self.n_cmpl or self.n or 1

    @property
    def n_reported(self) -> int:
        """Likeliest tokens to tell at each place; 0: none, nor what they are likely."""
        return (self.logprobs or 0) if self.n_probs is None else self.n_probs


class LikelyToken(BaseModel):
    """A token that might have been; `bytes` is all of its piece, `token` what of it is text."""

    id: int
    token: str
    bytes: list[int]
    logprob: float


class TokenProbabilities(LikelyToken):
    """The token that was chosen, and the likeliest ones at its place."""

    top_logprobs: list[LikelyToken]


class LlamaPart(BaseModel):
    """An event of a streamed answer before its last."""

    index: int
    content: str
    tokens: list[int]
    stop: Literal[False] = False
    id_slot: int = -1
    tokens_predicted: int
    tokens_evaluated: int
    timings: Timings | None = None
    prompt_progress: PromptProgress | None = None
    completion_probabilities: list[TokenProbabilities] | None = None


class LlamaCompletion(BaseModel):
    """One whole answer; of a streamed one the last event, without its text."""

    index: int
    content: str
    tokens: list[int]
    """Empty unless `return_tokens` asked for them."""
    id_slot: int
    """-1 where there are several lines."""
    stop: Literal[True] = True
    model: str
    tokens_predicted: int
    """Without the token that says the end."""
    tokens_evaluated: int
    """Of the prompt, from the cache or computed."""
    generation_settings: dict[str, Any]
    prompt: str
    has_new_line: bool
    truncated: bool
    """The context was full: the answer ended there, or went on without some of its text."""
    stop_type: Literal["eos", "limit", "word"]
    stopping_word: str
    tokens_cached: int
    """That the slot holds when it is done."""
    timings: Timings
    completion_probabilities: list[TokenProbabilities] | None = None


class LlamaCompletions(RootModel[list[dict[str, Any]]]):
    """The answers where there are several prompts, or several answers to one."""


class LlamaFields(RootModel[dict[str, Any]]):
    """What `response_fields` leaves of an answer."""
