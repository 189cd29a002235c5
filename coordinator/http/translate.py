# SPDX-License-Identifier: MIT
"""From a validated request to what the mesh takes: sampling, messages, tools. Pure but for random seeds."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from http import HTTPStatus

from coordinator.admission import RequestOptions
from coordinator.chat_output import Calls, ChatMessage, Tool, Wish
from coordinator.http.rejection import RejectedError
from coordinator.http.schemas.chat import ChatRequest, Message
from coordinator.http.schemas.sampling import SamplingFields
from coordinator.http.schemas.tools import ToolChoice
from coordinator.text_face import TextFace
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


def sampling_of(
    request: SamplingFields,
    *,
    n_top_logprobs: int | None,
    logit_bias: tuple[tuple[int, float], ...] = (),
    grammar: str = "",
    visible: tuple[int, ...] = (),
) -> SamplingParams:
    """The request's sampling parameters; what it leaves out, or sets to null, is llama-server's default.

    Args:
        request: a chat or completion request.
        n_top_logprobs: how many likeliest tokens to report at each place; None: no log probabilities at all.
        logit_bias: the request's, of `logit_bias_of`.
        grammar: what holds the answer, beside a grammar of the client's own.
        visible: special tokens that are part of the answer's text.

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
            logit_bias=logit_bias,
            logprobs=n_top_logprobs is not None,
            n_top_logprobs=n_top_logprobs or 0,
            visible_tokens=visible,
        )
    except ValueError as error:
        raise RejectedError(HTTPStatus.BAD_REQUEST, str(error), code="invalid_request") from None


def logit_bias_of(request: SamplingFields, mesh: TextFace) -> tuple[tuple[int, float], ...]:
    """What is added to the logits of which tokens; a text stands for each of the tokens that it is made of alone."""
    pairs: list[tuple[int, float]] = []
    for word, bias in request.logit_bias:
        tokens = mesh.tokenize(word, parse_special=False) if isinstance(word, str) else (word,)
        pairs += [(token, bias) for token in tokens]
    if request.ignore_eos:
        pairs += [(token, float("-inf")) for token in mesh.vocabulary.end_tokens]
    return tuple(pairs)


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
        tells_progress=bool(request.stream and request.return_progress),
    )


def options_of_choice(options: RequestOptions, choice: int) -> RequestOptions:
    """The options of the `choice`-th answer to one prompt: the same but for the seed; answers differ."""
    sampling = options["sampling"]
    assert sampling is not None
    return {**options, "sampling": dataclasses.replace(sampling, seed=(sampling.seed + choice) & _SEED_MASK)}


def messages_of(request: ChatRequest) -> list[ChatMessage]:
    """The conversation as `chat_output` takes it; `developer` is what OpenAI now calls the system role."""
    names = {call.id: call.function.name for message in request.messages for call in message.tool_calls or ()}
    return [_message(message, names) for message in request.messages]


def wish_of(request: ChatRequest, *, tells_thoughts_apart: bool = True) -> Wish:
    """What the answer is to be.

    Args:
        tells_thoughts_apart: where the request does not say.
    """
    tools = tuple(
        Tool(
            field.function.name,
            field.function.parameters,
            field.function.description or "",
            strict=field.function.strict is True,
            place=f"tools.{number}.function.parameters",
        )
        for number, field in enumerate(request.tools or ())
    )
    choice, form = request.tool_choice or ToolChoice(calls=Calls.AUTO), request.reasoning_format
    return Wish(
        tools=tools,
        calls=choice.calls,
        callable=None if choice.names is None else frozenset(choice.names),
        parallel=request.parallel_tool_calls is not False and not choice.is_one,
        schema=request.wanted_schema,
        is_held=not request.grammar,
        reasoning_apart=tells_thoughts_apart if form is None else form != "none",
    )


def template_variables_of(request: ChatRequest) -> dict[str, object]:
    """What the template reads beside messages and tools; an effort of none means no thoughts."""
    effort = request.reasoning_effort
    told: dict[str, object] = {} if effort is None else {"reasoning_effort": effort}
    if effort == "none":
        told = {"enable_thinking": False}
    if request.add_generation_prompt is False:
        told["add_generation_prompt"] = False
    return {**told, **request.chat_template_kwargs}


def _message(message: Message, names: Mapping[str, str]) -> ChatMessage:
    """One message.

    Args:
        names: of the tools that were called, by the ids of calls.
    """
    role = "system" if message.role == "developer" else message.role
    told: dict[str, object] = {"role": role, "content": message.content or ""}
    if message.reasoning_content and role == "assistant":
        told["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        told["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    if role == "tool":
        told["tool_call_id"] = message.tool_call_id or ""
        told["name"] = names.get(message.tool_call_id or "", "")
    return told
