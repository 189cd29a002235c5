# SPDX-License-Identifier: MIT
"""Fields that chat and completion requests share: how to sample, when to stop, how to answer.

Bounds are checked here, at the edge; what comes after relies on them. Meanings and defaults: llama-server's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from coordinator.http.schemas.output_format import OutputFormat
from coordinator.http.schemas.refused import first_refused, refusal
from coordinator.json_schema import ANY_OBJECT

MAX_CHOICES = 16
"""Answers to one prompt."""
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
"""Every piece of text is held back while a stop string may be starting, so they stay short."""
MAX_LOGIT_BIAS = 4096
MAX_BIASED_CHARACTERS = 256
MAX_GRAMMAR_CHARACTERS = 256 * 1024
MAX_TOP_LOGPROBS = 20
"""As many as a line reports with each token (protos: SamplingParams.n_top_logprobs)."""
MAX_TOKENS = 1 << 31
MAX_PRIORITY = 1 << 31
MAX_TIMEOUT_S = 7 * 24 * 3600
_INT64 = 1 << 63


class RequestModel(BaseModel):
    """A request body: no silent conversions, unknown fields kept so that `refused` can look at them."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)


class StreamOptions(BaseModel):
    """OpenAI's `stream_options`."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    include_usage: bool = False


def _as_stops(value: object) -> object:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _as_logit_bias(value: object) -> object:
    """OpenAI's map and llama-server's list of pairs, as pairs; `false` forbids the token. Names of the map are ids
    where they are numbers, else texts, as those in pairs are."""
    pairs: list[Any]
    if value is None:
        return ()
    if isinstance(value, Mapping):
        pairs = [(_id_or_text(name), bias) for name, bias in value.items()]
    elif isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        pairs = value
    else:
        raise refusal("logit_bias maps token ids, or texts, to numbers")
    return tuple((_checked(token), float("-inf") if bias is False else bias) for token, bias in pairs)


def _id_or_text(name: object) -> object:
    is_id = isinstance(name, str) and name.isascii() and name.isdigit() and len(name) <= 10
    return int(name) if is_id else name  # type: ignore[call-overload]


def _checked(token: object) -> int | str:
    if isinstance(token, str) and len(token) <= MAX_BIASED_CHARACTERS:
        return token
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < 1 << 31:
        raise refusal(f"logit_bias maps token ids, or texts of up to {MAX_BIASED_CHARACTERS} characters, to numbers")
    return token


def _finite_or_forbidden(pairs: tuple[tuple[int | str, float], ...]) -> tuple[tuple[int | str, float], ...]:
    if any(not (bias == float("-inf") or -1e6 <= bias <= 1e6) for _, bias in pairs):
        raise refusal("logit_bias values are numbers, or false to forbid the token")
    return pairs


StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Stops = Annotated[tuple[StopString, ...], Field(max_length=MAX_STOPS), BeforeValidator(_as_stops)]
LogitBias = Annotated[
    tuple[tuple[int | str, Annotated[float, Field(allow_inf_nan=True)]], ...],
    Field(max_length=MAX_LOGIT_BIAS),
    BeforeValidator(_as_logit_bias),
    AfterValidator(_finite_or_forbidden),
]


class SamplingFields(RequestModel):
    """What chat and completion requests have in common."""

    model: str | None = Field(None, max_length=1024)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(1, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(None, ge=-1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    n_predict: int | None = Field(None, ge=-1, le=MAX_TOKENS)
    stop: Stops = ()
    seed: int | None = Field(None, ge=-_INT64, lt=_INT64)
    temperature: float | None = Field(None, ge=0, le=100)
    top_k: int | None = Field(None, ge=-1, le=1 << 30)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, gt=0, le=100)
    frequency_penalty: float | None = Field(None, ge=-100, le=100)
    presence_penalty: float | None = Field(None, ge=-100, le=100)
    repeat_last_n: int | None = Field(None, ge=-1, le=1 << 30)
    grammar: str | None = Field(None, max_length=MAX_GRAMMAR_CHARACTERS)
    response_format: OutputFormat | None = None
    json_schema: dict[str, Any] | bool | None = None
    logit_bias: LogitBias = ()
    n_keep: int | None = Field(None, ge=-1, le=MAX_TOKENS)
    cache_prompt: bool | None = True
    priority: int | None = Field(None, le=MAX_PRIORITY)
    timeout: float | None = Field(None, gt=0, le=MAX_TIMEOUT_S)
    ignore_eos: bool | None = False
    timings_per_token: bool | None = False
    return_progress: bool | None = False
    verbose: bool | None = False

    @model_validator(mode="after")
    def _nothing_refused(self) -> SamplingFields:
        refused = first_refused(self.model_extra or {})
        if refused is not None:
            param, sentence = refused
            raise refusal(sentence, param)
        if self.stream_options is not None and not self.stream:
            raise refusal("stream_options is for streams: set `stream` to true, or leave it out", "stream_options")
        if self.priority is not None and self.priority < 0:
            raise refusal("a priority is 0 (what all have) or more, to let others go first", "priority")
        if self.max_tokens == 0 or self.n_predict == 0:
            raise refusal("max_tokens is at least 1; leave it out for as many as fit", "max_tokens")
        if self.grammar and self.wanted_schema is not None:
            raise refusal("a grammar and a JSON schema cannot both be kept: leave one out", "grammar")
        return self

    @property
    def wanted_schema(self) -> dict[str, Any] | bool | None:
        """The JSON schema that the answer is to be valid by; None: none. Of several fields llama-server's choice."""
        form, own = self.response_format, self.json_schema
        if form is None or form.type == "text" or (form.schema_ is None and form.type == "json_object" and own):
            # An empty one stands for any object.
            return dict(ANY_OBJECT) if own == {} else own
        return form.wanted

    @property
    def token_limit(self) -> int | None:
        """How many tokens to generate at most; None: until the model ends or the context is full."""
        for limit in (self.max_completion_tokens, self.max_tokens, self.n_predict):
            if limit is not None:
                return None if limit == -1 else limit
        return None

    @property
    def n_choices(self) -> int:
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage
