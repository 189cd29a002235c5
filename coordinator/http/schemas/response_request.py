# SPDX-License-Identifier: MIT
"""The body of `POST /v1/responses`, and what it is as a chat request: the same answers, told in another form."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from coordinator.http.rejection import RejectedError
from coordinator.http.schemas.chat import MAX_MESSAGES, ChatRequest
from coordinator.http.schemas.output_format import OutputFormat
from coordinator.http.schemas.refused import refusal
from coordinator.http.schemas.sampling import MAX_TOKENS, MAX_TOP_LOGPROBS, RequestModel
from coordinator.http.schemas.tools import (
    MAX_TOOLS,
    Parameters,
    ToolChoice,
    ToolName,
    ToolType,
    as_tool_choice,
)

_NOT_KEPT = "answers are not kept from one request to the next: send the whole conversation in `input`"

_REFUSED = {
    "previous_response_id": _NOT_KEPT,
    "conversation": _NOT_KEPT,
    "background": "answers are not made in the background: leave it out, or stream",
    "prompt": "there are no stored prompts: send the text in `input` or `instructions`",
}

_LOGPROBS = "message.output_text.logprobs"
"""Of `include`; the others name what there is none of here."""

_PASSED_ON = ("model", "stream", "temperature", "top_p", "top_logprobs", "parallel_tool_calls", "tool_choice")
"""Fields that a chat request has under the same name."""


class ResponseTool(BaseModel):
    """A function; what it is lies beside the type, not within `function`."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    type: ToolType
    name: ToolName
    description: str | None = None
    parameters: Parameters = Field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None

    def as_chat(self) -> dict[str, Any]:
        """As chat requests have it."""
        function = self.model_dump(exclude={"type"})
        return {"type": "function", "function": function}


def _as_format(value: object) -> object:
    """`text.format`, whose schema lies beside its type, as `response_format`."""
    if not isinstance(value, dict):
        return value
    if value.get("type") == "json_schema" and "json_schema" not in value:
        return {
            "type": "json_schema",
            "json_schema": {name: value[name] for name in ("name", "schema") if name in value},
        }
    return value


class TextField(BaseModel):
    """What form the text has."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    format: Annotated[OutputFormat | None, BeforeValidator(_as_format)] = None


class ReasoningField(BaseModel):
    """How much is thought; a summary is not made."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    effort: str | None = Field(None, max_length=64)


class ResponseRequest(RequestModel):
    """OpenAI's request for a response; items of `input` are told apart in `messages`."""

    input: str | list[dict[str, JsonValue]]
    model: str | None = Field(None, max_length=1024)
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, ge=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    stream: bool | None = False
    store: bool | None = None
    metadata: dict[str, str] | None = None
    tools: list[ResponseTool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Annotated[ToolChoice | None, BeforeValidator(as_tool_choice)] = None
    parallel_tool_calls: bool | None = None
    text: TextField | None = None
    reasoning: ReasoningField | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[str] | None = None

    @model_validator(mode="after")
    def _nothing_refused(self) -> ResponseRequest:
        for name, sentence in _REFUSED.items():
            if (self.model_extra or {}).get(name):
                raise refusal(f"{name}: {sentence}", name)
        if self.truncation == "auto":
            raise refusal("truncation is not supported: send what fits, or start the server with --context-shift")
        if not self.input or (len(self.input) > MAX_MESSAGES and not isinstance(self.input, str)):
            raise refusal(f"input is a text, or a list of 1 to {MAX_MESSAGES} items", "input")
        return self

    @property
    def wants_logprobs(self) -> bool:
        return self.top_logprobs is not None or _LOGPROBS in (self.include or ())

    def as_chat(self) -> ChatRequest:
        """The chat request that is answered.

        Raises:
            ValidationError: what it says together cannot be; places are those of a chat request.
            RejectedError: 400, an item of `input` that cannot be read.
        """
        fields: dict[str, Any] = {name: getattr(self, name) for name in _PASSED_ON}
        extra = {name: value for name, value in (self.model_extra or {}).items() if name in ChatRequest.model_fields}
        return ChatRequest.model_validate(
            {
                **extra,
                **fields,
                "messages": self._messages(),
                "n": 1,
                "logprobs": self.wants_logprobs,
                "max_tokens": self.max_output_tokens,
                "tools": None if self.tools is None else [tool.as_chat() for tool in self.tools],
                "response_format": None if self.text is None else self.text.format,
                "reasoning_effort": None if self.reasoning is None else self.reasoning.effort,
            }
        )

    def _messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*messages, {"role": "user", "content": self.input}]
        for number, item in enumerate(self.input):
            _add_item(messages, item, f"input.{number}")
        return messages


def _add_item(messages: list[dict[str, Any]], item: dict[str, Any], place: str) -> None:
    """An item as a message, or as part of the assistant's last one: thoughts, text and calls of one answer are one."""
    kind = item.get("type", "message")
    if kind == "message" and item.get("role") != "assistant":
        messages.append({"role": item.get("role"), "content": item.get("content")})
    elif kind == "message":
        _answer_without(messages, "content", "tool_calls")["content"] = item.get("content")
    elif kind == "reasoning":
        parts = item.get("content") or item.get("summary") or []
        _answer_without(messages, "reasoning_content", "content", "tool_calls")["reasoning_content"] = _joined(parts)
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments", "")}
        call = {"id": item.get("call_id", ""), "type": "function", "function": function}
        _answer_without(messages).setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")})
    else:
        message = f"an item of type {str(kind)[:80]!r} cannot be read: send messages, reasoning, and calls of functions"
        raise RejectedError(HTTPStatus.BAD_REQUEST, message, param=place, code="invalid_request")


def _answer_without(messages: list[dict[str, Any]], *parts: str) -> dict[str, Any]:
    """The assistant's message that is last, if it has none of these parts yet; else a new one."""
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or any(part in last for part in parts):
        messages.append({"role": "assistant"})
    return messages[-1]


def _joined(parts: object) -> str:
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return "".join(text for text in texts if isinstance(text, str))
