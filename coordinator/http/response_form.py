# SPDX-License-Identifier: MIT
"""OpenAI's responses: items, and events that tell how they grow. Pure; one telling for each response.

A whole answer is what all its events have built, so both say the same. Source: OpenAI's API reference, "Responses".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from coordinator.chat_output import CallArguments, CallBegun, Content, Delta, OutputParser, Reading, Reasoning
from coordinator.generation import FinishReason, Token
from coordinator.http.chat_form import token_logprobs
from coordinator.http.schemas import answer
from coordinator.http.schemas.responses import (
    CallItem,
    IncompleteDetails,
    InputDetails,
    Item,
    MessageItem,
    OutputDetails,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Response,
    ResponseError,
    ResponseEvent,
    ResponseUsage,
    Status,
)
from coordinator.http.schemas.status import ErrorInfo


@dataclass(slots=True)
class ResponseTelling:
    """A response as it grows.

    Attributes:
        response: As it is now; at first without items.
        reading: How the answer is read; None: it is text.
        is_timed: Whether what tokens tell says what they took.
    """

    response: Response
    reading: Reading | None
    with_logprobs: bool = False
    is_timed: bool = False
    _parser: OutputParser | None = None
    _waiting: list[Token] = field(default_factory=list)
    _n_events: int = 0
    _n_thought: int = 0
    _is_open: bool = False

    def begin(self) -> list[ResponseEvent]:
        """The events before anything is said."""
        if self.reading is not None:
            self._parser = OutputParser(self.reading, self.response.id)
        return [self._whole("response.created"), self._whole("response.in_progress")]

    def progress(self, progress: answer.PromptProgress) -> list[ResponseEvent]:
        """How far the prompt is."""
        told = self.response.model_copy(deep=True)
        return [self._event("response.in_progress", response=told, prompt_progress=progress)]

    def push(self, tokens: Sequence[Token], text: str, timings: answer.Timings | None = None) -> list[ResponseEvent]:
        """What tokens tell, if anything yet, with what it took until then if anybody wants to know."""
        self._waiting += tokens
        deltas = self._parser.push(text) if self._parser is not None else [Content(text)] if text else []
        if any(isinstance(delta, Reasoning) for delta in deltas):
            self._n_thought += len(self._waiting)
        events = [event for delta in deltas for event in self._grow(delta)]
        if deltas:
            self._waiting.clear()
        if events and timings is not None:
            events[-1] = _with_timings(events[-1], timings)
        return events

    def finish(self, reason: FinishReason, usage: answer.Usage, timings: answer.Timings) -> list[ResponseEvent]:
        """The events of the end."""
        deltas = [] if self._parser is None else self._parser.finish()
        is_cut = reason is FinishReason.LENGTH
        events = [event for delta in deltas for event in self._grow(delta)]
        if not self.response.output:
            events += self._open(MessageItem(id=self._id("msg")))
        events += self._close("incomplete" if is_cut else "completed")
        self.response.usage = self._usage(usage)
        self.response.status = "incomplete" if is_cut else "completed"
        if is_cut:
            self.response.incomplete_details = IncompleteDetails()
        return [*events, _with_timings(self._whole(f"response.{self.response.status}"), timings)]

    def fail(self, error: ErrorInfo) -> list[ResponseEvent]:
        """The event of an end that nobody wanted."""
        self.response.status = "failed"
        self.response.error = ResponseError(code=error.code or error.type, message=error.message)
        return [self._whole("response.failed")]

    def _grow(self, delta: Delta) -> list[ResponseEvent]:
        if isinstance(delta, CallBegun):
            return self._next(CallItem(id=self._id("fc"), call_id=delta.id, name=delta.name))
        if isinstance(delta, CallArguments):
            item = self.response.output[-1]
            assert isinstance(item, CallItem)
            item.arguments += delta.text
            return [self._of_item("response.function_call_arguments.delta", delta=delta.text)]
        events: list[ResponseEvent] = []
        kind = MessageItem if isinstance(delta, Content) else ReasoningItem
        if not (self._is_open and isinstance(self.response.output[-1], kind)):
            events = self._next(kind(id=self._id("msg" if kind is MessageItem else "rs")))
        return [*events, self._grow_text(delta)]

    def _grow_text(self, delta: Content | Reasoning) -> ResponseEvent:
        item = self.response.output[-1]
        assert isinstance(item, MessageItem | ReasoningItem)
        part = item.content[0]
        part.text += delta.text
        if isinstance(part, ReasoningText):
            return self._of_part("response.reasoning_text.delta", delta=delta.text)
        logprobs = token_logprobs(self._waiting) if self.with_logprobs else []
        part.logprobs += logprobs
        return self._of_part("response.output_text.delta", delta=delta.text, logprobs=logprobs)

    def _next(self, item: Item) -> list[ResponseEvent]:
        return [*self._close("completed"), *self._open(item)]

    def _open(self, item: Item) -> list[ResponseEvent]:
        self.response.output.append(item)
        self._is_open = True
        events = [self._event("response.output_item.added", output_index=self._index, item=item.model_copy(deep=True))]
        if not isinstance(item, CallItem):
            part = OutputText() if isinstance(item, MessageItem) else ReasoningText()
            events.append(self._of_part("response.content_part.added", part=part.model_copy()))
            item.content.append(part)  # type: ignore[arg-type]
        return events

    def _close(self, status: Status) -> list[ResponseEvent]:
        """The item that is open is done."""
        if not self._is_open:
            return []
        self._is_open = False
        item = self.response.output[-1]
        item.status = status
        events = []
        if isinstance(item, CallItem):
            done = "response.function_call_arguments.done"
            events.append(self._of_item(done, name=item.name, arguments=item.arguments))
        else:
            part = item.content[0]
            kind = "output_text" if isinstance(part, OutputText) else "reasoning_text"
            logprobs = {"logprobs": part.logprobs} if isinstance(part, OutputText) else {}
            events.append(self._of_part(f"response.{kind}.done", text=part.text, **logprobs))
            events.append(self._of_part("response.content_part.done", part=part))
        return [*events, self._event("response.output_item.done", output_index=self._index, item=item)]

    @property
    def _index(self) -> int:
        return len(self.response.output) - 1

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self.response.id.removeprefix('resp_')}{len(self.response.output):02x}"

    def _usage(self, usage: answer.Usage) -> ResponseUsage:
        return ResponseUsage(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputDetails(cached_tokens=usage.prompt_tokens_details.cached_tokens),
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputDetails(reasoning_tokens=self._n_thought),
            total_tokens=usage.total_tokens,
        )

    def _whole(self, kind: str) -> ResponseEvent:
        return self._event(kind, response=self.response.model_copy(deep=True))

    def _of_item(self, kind: str, **fields: object) -> ResponseEvent:
        item_id = self.response.output[-1].id
        return self._event(kind, item_id=item_id, output_index=self._index, **fields)

    def _of_part(self, kind: str, **fields: object) -> ResponseEvent:
        return self._of_item(kind, content_index=0, **fields)

    def _event(self, kind: str, **fields: object) -> ResponseEvent:
        event = ResponseEvent(type=kind, sequence_number=self._n_events, **fields)
        self._n_events += 1
        return event


def _with_timings(event: ResponseEvent, timings: answer.Timings) -> ResponseEvent:
    return event.model_copy(update={"timings": timings})
