# SPDX-License-Identifier: MIT
"""OpenAI's chat answers, with llama-server's `reasoning_content`. Used like the other forms, of `forms`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from coordinator.chat_output import (
    CallArguments,
    CallBegun,
    Content,
    Delta,
    Message,
    OutputParser,
    Reading,
    Reasoning,
    parse,
)
from coordinator.generation import FinishReason, PromptProgress, Token
from coordinator.http.forms import Heading, add_end, finish_reason
from coordinator.http.llama_answer import Asked
from coordinator.http.measures import progress_of
from coordinator.http.pieces import Finished, Piece, piece_text, reported
from coordinator.http.schemas import answer, chat


@dataclass(slots=True)
class _Telling:
    """One answer on its way.

    Attributes:
        parser: None: all is content.
        waiting: Tokens that have told nothing yet.
    """

    parser: OutputParser | None
    waiting: list[Token] = field(default_factory=list)
    has_calls: bool = False

    def push(self, text: str) -> Sequence[Delta]:
        deltas = (Content(text),) if self.parser is None else self.parser.push(text)
        return self._noted(deltas)

    def finish(self) -> Sequence[Delta]:
        return self._noted(() if self.parser is None else self.parser.finish())

    def _noted(self, deltas: Sequence[Delta]) -> Sequence[Delta]:
        self.has_calls = self.has_calls or any(isinstance(delta, CallBegun) for delta in deltas)
        return deltas


@dataclass(frozen=True, slots=True)
class ChatForm:
    """`/v1/chat/completions`.

    Attributes:
        reading: How answers are read; None: they are text.
        asked: Of each answer, for `verbose`; empty: it was not asked for.
    """

    heading: Heading
    with_logprobs: bool
    reading: Reading | None = None
    is_timed: bool = False
    asked: Sequence[Asked] = ()
    says_done: ClassVar[bool] = True
    _tellings: dict[int, _Telling] = field(default_factory=dict)

    def opening(self, index: int) -> chat.ChatChunk:
        parser = None if self.reading is None else OutputParser(self.reading, self._seed(index))
        self._tellings[index] = _Telling(parser)
        return self._chunk(chat.ChatChunkChoice(index=index, delta=chat.Delta(role="assistant", content="")))

    def progress(self, index: int, progress: PromptProgress) -> chat.ChatChunk:
        chunk = self._chunk(chat.ChatChunkChoice(index=index, delta=chat.Delta()))
        chunk.prompt_progress = progress_of(progress)
        return chunk

    def chunks(self, piece: Piece) -> list[chat.ChatChunk]:
        telling = self._tellings[piece.index]
        telling.waiting += piece.tokens
        chunks = self._told(piece.index, telling, telling.push(piece.text))
        if chunks:
            chunks[-1].timings = piece.timings
        return chunks

    def closing(self, finished: Finished) -> list[chat.ChatChunk]:
        index = finished.index
        telling = self._tellings[index]
        chunks = self._told(index, telling, telling.finish())
        logprobs = self._logprobs(telling.waiting) if telling.waiting else None
        why = _why(finished.reason, has_calls=telling.has_calls)
        choice = chat.ChatChunkChoice(index=index, delta=chat.Delta(), logprobs=logprobs, finish_reason=why)
        last = self._chunk(choice)
        add_end(last, finished, self.heading, self.asked)
        return [*chunks, last]

    def usage(self, usage: answer.Usage, timings: answer.Timings) -> chat.ChatChunk:
        return chat.ChatChunk(**self.heading, choices=[], usage=usage, timings=timings)

    def whole(self, answers: Sequence[Finished], usage: answer.Usage) -> chat.ChatCompletion:
        choices = []
        for finished in answers:
            message = Message(finished.text)
            if self.reading is not None:
                message = parse(finished.text, self.reading, self._seed(finished.index))
            choices.append(
                chat.ChatChoice(
                    index=finished.index,
                    message=_answer_message(message),
                    logprobs=self._logprobs(finished.tokens),
                    finish_reason=_why(finished.reason, has_calls=bool(message.calls)),
                )
            )
        whole = chat.ChatCompletion(**self.heading, choices=choices, usage=usage)
        add_end(whole, answers[0], self.heading, self.asked)
        return whole

    def _told(self, index: int, telling: _Telling, deltas: Sequence[Delta]) -> list[chat.ChatChunk]:
        """A chunk for each delta; log probabilities come with the first."""
        chunks = []
        for delta in deltas:
            logprobs = self._logprobs(telling.waiting) if telling.waiting else None
            telling.waiting.clear()
            choice = chat.ChatChunkChoice(index=index, delta=_delta(delta), logprobs=logprobs)
            chunks.append(self._chunk(choice))
        return chunks

    def _seed(self, index: int) -> str:
        """The same answer has the same ids of calls whenever it is told."""
        return f"{self.heading['id']}/{index}"

    def _chunk(self, choice: chat.ChatChunkChoice) -> chat.ChatChunk:
        return chat.ChatChunk(**self.heading, choices=[choice])

    def _logprobs(self, tokens: Sequence[Token]) -> chat.ChatLogprobs | None:
        return chat.ChatLogprobs(content=token_logprobs(tokens)) if self.with_logprobs else None


def token_logprobs(tokens: Sequence[Token]) -> list[chat.TokenLogprob]:
    """What is told of the probabilities of tokens, and of their likeliest rivals."""
    return [
        chat.TokenLogprob(
            token=piece_text(token.piece),
            logprob=logprob,
            bytes=list(token.piece),
            top_logprobs=[
                chat.TopLogprob(token=piece_text(top.piece), logprob=top.logprob, bytes=list(top.piece))
                for top in token.top_logprobs
            ],
        )
        for token, logprob in reported(tokens)
    ]


def _delta(delta: Delta) -> chat.Delta:
    if isinstance(delta, Content):
        return chat.Delta(content=delta.text)
    if isinstance(delta, Reasoning):
        return chat.Delta(reasoning_content=delta.text)
    if isinstance(delta, CallArguments):
        function = chat.FunctionDelta(arguments=delta.text)
        return chat.Delta(tool_calls=[chat.ToolCallDelta(index=delta.index, function=function)])
    function = chat.FunctionDelta(name=delta.name, arguments="")
    return chat.Delta(
        tool_calls=[chat.ToolCallDelta(index=delta.index, id=delta.id, type="function", function=function)]
    )


def _answer_message(message: Message) -> chat.AnswerMessage:
    calls = [
        chat.AnswerCall(id=call.id, function=chat.AnswerFunction(name=call.name, arguments=call.arguments))
        for call in message.calls
    ]
    return chat.AnswerMessage(
        content=None if calls and not message.content else message.content,
        reasoning_content=message.reasoning or None,
        tool_calls=calls or None,
    )


def _why(reason: FinishReason, *, has_calls: bool) -> answer.FinishReason:
    why = finish_reason(reason)
    return "tool_calls" if has_calls and why == "stop" else why
