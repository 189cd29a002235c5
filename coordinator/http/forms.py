# SPDX-License-Identifier: MIT
"""What the forms have in common in which tokens are told to clients, and the simplest one: OpenAI's completion answers.

Pure: built by the routes for one request, called on the event loop. A stream's chunks say together exactly
what the whole answer says at once.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, TypedDict

from pydantic import BaseModel

from coordinator.generation import FinishReason, PromptProgress, Token
from coordinator.http.llama_answer import Asked, completion_of
from coordinator.http.measures import progress_of, timings_of
from coordinator.http.pieces import Finished, Piece, piece_text, reported
from coordinator.http.schemas import answer, completions


class Form(Protocol):
    """What `streaming` and `collecting` need to know of a form."""

    @property
    def is_timed(self) -> bool:
        """Whether each chunk tells what the answer took until then."""

    @property
    def says_done(self) -> bool:
        """Whether streams that end well end with [DONE]."""

    def opening(self, index: int) -> BaseModel | None:
        """The chunk that begins an answer, if the form has one."""

    def progress(self, index: int, progress: PromptProgress) -> BaseModel:
        """The chunk that tells how far its prompt is."""

    def chunks(self, piece: Piece) -> Sequence[BaseModel]:
        """What a piece tells, if anything yet; pieces of one answer must come in order."""

    def closing(self, finished: Finished) -> Sequence[BaseModel]:
        """The chunks that end an answer."""

    def usage(self, usage: answer.Usage, timings: answer.Timings) -> BaseModel | None:
        """The chunk without choices that ends a stream which was asked for its usage, if the form has one."""

    def whole(self, answers: Sequence[Finished], usage: answer.Usage) -> BaseModel:
        """All answers at once."""


class Heading(TypedDict):
    """What all chunks of one request have in common."""

    id: str
    created: int
    model: str
    system_fingerprint: str


def heading(kind: str, model: str, build: str) -> Heading:
    """A new request's heading; `kind` is its id's prefix, `build` the llama.cpp build that computes it."""
    return Heading(
        id=f"{kind}-{secrets.token_hex(12)}", created=int(time.time()), model=model, system_fingerprint=build
    )


@dataclass(frozen=True, slots=True)
class CompletionForm:
    """`/v1/completions`.

    Attributes:
        echoes: What stands before each answer: its prompt's text, or "".
        asked: Of each answer, for `verbose`; empty: it was not asked for.
    """

    heading: Heading
    with_logprobs: bool
    echoes: Sequence[str]
    is_timed: bool = False
    asked: Sequence[Asked] = ()
    says_done: ClassVar[bool] = True
    _n_characters: dict[int, int] = field(default_factory=dict)

    def opening(self, index: int) -> completions.Completion | None:
        echo = self.echoes[index]
        return self._chunk(completions.CompletionChoice(index=index, text=echo)) if echo else None

    def progress(self, index: int, progress: PromptProgress) -> completions.Completion:
        chunk = self._chunk(completions.CompletionChoice(index=index, text=""))
        chunk.prompt_progress = progress_of(progress)
        return chunk

    def chunks(self, piece: Piece) -> list[completions.Completion]:
        start = self._n_characters.get(piece.index, len(self.echoes[piece.index]))
        self._n_characters[piece.index] = start + len(piece.text)
        logprobs = self._logprobs(piece.tokens, start)
        chunk = self._chunk(completions.CompletionChoice(index=piece.index, text=piece.text, logprobs=logprobs))
        chunk.timings = piece.timings
        return [chunk]

    def closing(self, finished: Finished) -> list[completions.Completion]:
        why = finish_reason(finished.reason)
        chunk = self._chunk(completions.CompletionChoice(index=finished.index, text="", finish_reason=why))
        add_end(chunk, finished, self.heading, self.asked)
        return [chunk]

    def usage(self, usage: answer.Usage, timings: answer.Timings) -> completions.Completion:
        return completions.Completion(**self.heading, choices=[], usage=usage, timings=timings)

    def whole(self, answers: Sequence[Finished], usage: answer.Usage) -> completions.Completion:
        choices = [
            completions.CompletionChoice(
                index=finished.index,
                text=self.echoes[finished.index] + finished.text,
                logprobs=self._logprobs(finished.tokens, len(self.echoes[finished.index])),
                finish_reason=finish_reason(finished.reason),
            )
            for finished in answers
        ]
        whole = completions.Completion(**self.heading, choices=choices, usage=usage)
        add_end(whole, answers[0], self.heading, self.asked)
        return whole

    def _chunk(self, choice: completions.CompletionChoice) -> completions.Completion:
        return completions.Completion(**self.heading, choices=[choice])

    def _logprobs(self, tokens: Sequence[Token], start: int) -> completions.CompletionLogprobs | None:
        if not self.with_logprobs:
            return None
        told = reported(tokens)
        lengths = [len(token.text) for token, _ in told]
        return completions.CompletionLogprobs(
            tokens=[piece_text(token.piece) for token, _ in told],
            token_logprobs=[logprob for _, logprob in told],
            top_logprobs=[{piece_text(top.piece): top.logprob for top in token.top_logprobs} for token, _ in told],
            text_offset=list(itertools.accumulate(lengths, initial=start))[: len(lengths)],
        )


def add_end(chunk: answer.Answer, finished: Finished, heading: Heading, asked: Sequence[Asked]) -> None:
    """What a chunk tells with which an answer ends, beside its choices."""
    chunk.timings = timings_of(finished.usage)
    if asked:
        told = completion_of(finished, asked[finished.index], heading["model"])
        chunk.verbose = told.model_dump(exclude_none=True)


def finish_reason(reason: FinishReason) -> Literal["stop", "length"]:
    """In OpenAI's words. A request that was called off has no client left to read it."""
    return "length" if reason is FinishReason.LENGTH else "stop"
