# SPDX-License-Identifier: MIT
"""Bodies of `POST /v1/chat/completions`: the request, the answer, and the chunks of a streamed answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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

from coordinator.chat_output import Calls, GoingOn
from coordinator.http.schemas.answer import Answer, FinishReason
from coordinator.http.schemas.refused import refusal
from coordinator.http.schemas.sampling import MAX_TOP_LOGPROBS, SamplingFields
from coordinator.http.schemas.tools import MAX_TOOLS, ToolCallField, ToolChoice, ToolField, as_tool_choice

MAX_MESSAGES = 4096


def as_text(content: object) -> object:
    """Text parts joined; any other kind of part is refused by its name."""
    if not isinstance(content, list):
        return content
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "input_text", "output_text"):
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

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | None, BeforeValidator(as_text)] = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallField] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if (self.model_extra or {}).get("function_call"):
            raise refusal("function_call is OpenAI's old form: send `tool_calls`")
        if self.tool_calls and self.role != "assistant":
            raise refusal("only messages of the assistant have `tool_calls`")
        if self.content is None and not (self.role == "assistant" and (self.tool_calls or self.reasoning_content)):
            raise refusal("content is missing: a message holds text")
        return self


class ChatRequest(SamplingFields):
    """OpenAI's chat request with llama-server's sampling fields."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    tools: list[ToolField] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Annotated[ToolChoice | None, BeforeValidator(as_tool_choice)] = None
    parallel_tool_calls: bool | None = None
    reasoning_format: Literal["none", "auto", "deepseek"] | None = None
    reasoning_effort: str | None = Field(None, max_length=64)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | Literal["content", "reasoning_content"] | None = None
    echo: bool | None = False

    @property
    def going_on(self) -> GoingOn | None:
        """How the answer goes on with the last message; None: it is a new one."""
        asked, last = self.continue_final_message, self.messages[-1]
        if last.role != "assistant":
            return None
        from_thoughts = bool(last.reasoning_content and not last.content)
        if isinstance(asked, str):
            from_thoughts = asked == "reasoning_content"
        return GoingOn(from_thoughts, is_echoed=not asked or bool(self.echo))

    @model_validator(mode="after")
    def _can_go_on(self) -> ChatRequest:
        """llama-server's rules."""
        if self.continue_final_message:
            if self.add_generation_prompt is not False:
                both = "continue_final_message goes on with a message: set `add_generation_prompt` to false"
                raise refusal(both, "continue_final_message")
            if self.going_on is None:
                last = "continue_final_message goes on with a message of the assistant, and that is not the last one"
                raise refusal(last, "continue_final_message")
        if self.going_on is None:
            return self
        if len(self.messages) > 1 and self.messages[-2].role == "assistant" and not self.continue_final_message:
            twice = "two messages of the assistant at the end cannot be gone on with: send one, or one of the user"
            raise refusal(twice, "messages")
        if self.messages[-1].tool_calls:
            raise refusal("a message with `tool_calls` cannot be gone on with: send what the tools gave", "messages")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise refusal("top_logprobs needs `logprobs` to be true", "top_logprobs")
        names = [tool.function.name for tool in self.tools or ()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise refusal(f"two tools are called {twice!r}: give them different names", "tools")
        choice = self.tool_choice
        if choice is None or choice.calls is Calls.NONE:
            return self
        if choice.calls is Calls.REQUIRED and not names:
            raise refusal("tool_choice wants a tool to be called, and there are none in `tools`", "tool_choice")
        missing = next((name for name in choice.names or () if name not in names), None)
        if missing is not None:
            raise refusal(f"tool_choice names {missing!r}, which is not in `tools`", "tool_choice")
        return self

    @model_validator(mode="after")
    def _grammar_or_tools(self) -> ChatRequest:
        may_call = self.tools and (self.tool_choice is None or self.tool_choice.calls is not Calls.NONE)
        if self.grammar and may_call:
            raise refusal("a grammar and tools cannot both be kept: leave one out", "grammar")
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


class AnswerFunction(BaseModel):
    """What is called; `arguments` is JSON as text."""

    name: str
    arguments: str


class AnswerCall(BaseModel):
    """A call of a tool."""

    id: str
    type: Literal["function"] = "function"
    function: AnswerFunction


class AnswerMessage(BaseModel):
    """What the model said; thoughts and calls are left out where there are none."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[AnswerCall] | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None or name == "content"}


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


class _Adding(BaseModel):
    """What it does not add is left out."""

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class FunctionDelta(_Adding):
    """The name comes first, then the arguments in pieces."""

    name: str | None = None
    arguments: str


class ToolCallDelta(_Adding):
    """A piece of the call with that number; its id comes with the first."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(_Adding):
    """What a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


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
