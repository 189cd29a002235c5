# SPDX-License-Identifier: MIT
"""From a validated request to what the mesh takes: sampling, messages. Pure but for random seeds."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from coordinator.admission import RequestOptions
from coordinator.http.rejection import RejectedError
from coordinator.http.schemas.chat import ChatRequest, Message
from coordinator.http.schemas.sampling import SamplingFields
from native import SamplingParams

_SEED_MASK = 0xFFFF_FFFF
"""llama.cpp's seeds have 32 bits; longer ones are cut to them, as llama-server does."""
_RANDOM_SEED = -1

MAX_UNREAD = 256
"""Tokens of a stream that wait for a client before its request is paused: a minute and a half of reading aloud, and
with the likeliest 20 of each token about a megabyte."""

_PASSED_ON = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "repeat_last_n",
    "grammar",
)


def sampling_of(request: SamplingFields, *, n_top_logprobs: int | None, grammar: str = "") -> SamplingParams:
    """The request's sampling parameters; what it leaves out, or sets to null, is llama-server's default.

    Args:
        request: a chat or completion request.
        n_top_logprobs: how many likeliest tokens to report at each place; None: no log probabilities at all.
        grammar: of the JSON schema that is asked for; none if none is.

    Raises:
        RejectedError: 400, a value that passes for one of its kind and is none.
    """
    given = {name: value for name in _PASSED_ON if (value := getattr(request, name)) is not None}
    if grammar:
        given["grammar"] = grammar
    has_seed = request.seed is not None and request.seed != _RANDOM_SEED
    try:
        return SamplingParams(
            **given,
            seed=request.seed & _SEED_MASK if has_seed and request.seed is not None else secrets.randbits(32),
            logit_bias=request.logit_bias,
            logprobs=n_top_logprobs is not None,
            n_top_logprobs=n_top_logprobs or 0,
        )
    except ValueError as error:
        raise RejectedError(HTTPStatus.BAD_REQUEST, str(error), code="invalid_request") from None


def options_of(request: SamplingFields, sampling: SamplingParams, client: str) -> RequestOptions:
    """How the mesh is to answer the prompts of a client's request."""
    return RequestOptions(
        sampling=sampling,
        max_tokens=request.token_limit,
        stop=request.stop,
        n_keep=request.n_keep or 0,
        cache_prompt=request.cache_prompt is not False,
        client=client,
        priority=request.priority or 0,
        timeout=request.timeout,
        max_unread=MAX_UNREAD if request.stream else None,
    )


def options_of_choice(options: RequestOptions, choice: int) -> RequestOptions:
    """The options of the `choice`-th answer to one prompt: the same but for the seed; answers differ."""
    sampling = options["sampling"]
    assert sampling is not None
    return {**options, "sampling": dataclasses.replace(sampling, seed=(sampling.seed + choice) & _SEED_MASK)}


def messages_of(request: ChatRequest) -> Sequence[Mapping[str, object]]:
    """The conversation as chat templates take it; `developer` is what OpenAI now calls the system role."""
    return [_message(message) for message in request.messages]


def _message(message: Message) -> Mapping[str, object]:
    return {"role": "system" if message.role == "developer" else message.role, "content": message.content}
