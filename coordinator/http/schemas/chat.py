# SPDX-License-Identifier: MIT
"""Bodies of `POST /v1/chat/completions`: the request, the answer, and the chunks of a streamed answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from coordinator.http.schemas.answer import Answer, FinishReason
from coordinator.http.schemas.refused import refusal
from coordinator.http.schemas.sampling import MAX_TOP_LOGPROBS, SamplingFields

MAX_MESSAGES = 4096


def _as_text(content: object) -> object:
    """Text parts joined; any other kind of part is refused by its name."""
    if not isinstance(content, list):
        return content
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "input_text"):
            named = f"a part of type {kind!r}" if isinstance(kind, str) else "a part without a type"
            raise refusal(f"only text can be read, this message holds {named[:80]}")
        text = part.get("text")
        if not isinstance(text, str):
            raise refusal("a text part needs a string in `text`")
        texts.append(text)
    return "".join(texts)


class Message(BaseModel):
    """One message of the conversation; its text may come whole or in parts."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_as_text)]

    @model_validator(mode="after")
    def _no_tool_calls(self) -> Message:
        if any((self.model_extra or {}).get(name) for name in ("tool_calls", "function_call")):
            raise refusal("tool calls are not supported yet: leave them out of the messages")
        return self


class ChatRequest(SamplingFields):
    """OpenAI's chat request with llama-server's sampling fields."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _top_logprobs_need_logprobs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise refusal("top_logprobs needs `logprobs` to be true", "top_logprobs")
        return self


class TopLogprob(BaseModel):
    """A token that might have been, with its natural-log probability and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """The token that was chosen, and the likeliest ones at its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """One entry for each token of this answer or chunk."""

    content: list[TokenLogprob]


class AnswerMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """One whole answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(Answer):
    """The answer to a request without `stream`."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class Delta(BaseModel):
    """What a chunk adds; what it does not add is left out."""

    role: Literal["assistant"] | None = None
    content: str | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, str]:
        return {name: value for name, value in handler(self).items() if value is not None}


class ChatChunkChoice(BaseModel):
    """A piece of one answer; its last chunk carries the finish reason."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(Answer):
    """One event of a streamed answer."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]
