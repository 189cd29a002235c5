# SPDX-License-Identifier: MIT
"""The two forms in which tokens are told to clients: OpenAI's chat answers and its completion answers.

Pure: built by the routes for one request, called on the event loop. A stream's chunks say together exactly
what the whole answer says at once.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypedDict

from coordinator.generation import FinishReason, Token
from coordinator.http.schemas import answer, chat, completions


@dataclass(frozen=True, slots=True)
class Piece:
    """Some consecutive tokens of one answer with the text they brought."""

    index: int
    tokens: Sequence[Token]
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """One whole answer."""

    index: int
    tokens: Sequence[Token]
    text: str
    reason: FinishReason


class Form(Protocol):
    """What `streaming` and `collecting` need to know of a form."""

    def opening(self, index: int) -> answer.Answer | None:
        """The chunk that begins an answer, if the form has one."""

    def chunk(self, piece: Piece) -> answer.Answer:
        """A chunk with text; pieces of one answer must come in order."""

    def closing(self, index: int, reason: FinishReason) -> answer.Answer:
        """The chunk that ends an answer."""

    def usage(self, usage: answer.Usage) -> answer.Answer:
        """The chunk without choices that ends a stream which was asked for its usage."""

    def whole(self, answers: Sequence[Finished], usage: answer.Usage) -> answer.Answer:
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
class ChatForm:
    """`/v1/chat/completions`."""

    heading: Heading
    with_logprobs: bool

    def opening(self, index: int) -> chat.ChatChunk:
        return self._chunk(chat.ChatChunkChoice(index=index, delta=chat.Delta(role="assistant", content="")))

    def chunk(self, piece: Piece) -> chat.ChatChunk:
        delta = chat.Delta(content=piece.text)
        return self._chunk(chat.ChatChunkChoice(index=piece.index, delta=delta, logprobs=self._logprobs(piece.tokens)))

    def closing(self, index: int, reason: FinishReason) -> chat.ChatChunk:
        return self._chunk(chat.ChatChunkChoice(index=index, delta=chat.Delta(), finish_reason=finish_reason(reason)))

    def usage(self, usage: answer.Usage) -> chat.ChatChunk:
        return chat.ChatChunk(**self.heading, choices=[], usage=usage)

    def whole(self, answers: Sequence[Finished], usage: answer.Usage) -> chat.ChatCompletion:
        choices = [
            chat.ChatChoice(
                index=finished.index,
                message=chat.AnswerMessage(content=finished.text),
                logprobs=self._logprobs(finished.tokens),
                finish_reason=finish_reason(finished.reason),
            )
            for finished in answers
        ]
        return chat.ChatCompletion(**self.heading, choices=choices, usage=usage)

    def _chunk(self, choice: chat.ChatChunkChoice) -> chat.ChatChunk:
        return chat.ChatChunk(**self.heading, choices=[choice])

    def _logprobs(self, tokens: Sequence[Token]) -> chat.ChatLogprobs | None:
        if not self.with_logprobs:
            return None
        return chat.ChatLogprobs(
            content=[
                chat.TokenLogprob(
                    token=piece_text(token.piece),
                    logprob=logprob,
                    bytes=list(token.piece),
                    top_logprobs=[
                        chat.TopLogprob(token=piece_text(top.piece), logprob=top.logprob, bytes=list(top.piece))
                        for top in token.top_logprobs
                    ],
                )
                for token, logprob in _reported(tokens)
            ]
        )


@dataclass(frozen=True, slots=True)
class CompletionForm:
    """`/v1/completions`. `echoes` holds what stands before each answer: its prompt's text, or ""."""

    heading: Heading
    with_logprobs: bool
    echoes: Sequence[str]
    _n_characters: dict[int, int] = field(default_factory=dict)

    def opening(self, index: int) -> completions.Completion | None:
        echo = self.echoes[index]
        return self._chunk(completions.CompletionChoice(index=index, text=echo)) if echo else None

    def chunk(self, piece: Piece) -> completions.Completion:
        start = self._n_characters.get(piece.index, len(self.echoes[piece.index]))
        self._n_characters[piece.index] = start + len(piece.text)
        logprobs = self._logprobs(piece.tokens, start)
        return self._chunk(completions.CompletionChoice(index=piece.index, text=piece.text, logprobs=logprobs))

    def closing(self, index: int, reason: FinishReason) -> completions.Completion:
        return self._chunk(completions.CompletionChoice(index=index, text="", finish_reason=finish_reason(reason)))

    def usage(self, usage: answer.Usage) -> completions.Completion:
        return completions.Completion(**self.heading, choices=[], usage=usage)

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
        return completions.Completion(**self.heading, choices=choices, usage=usage)

    def _chunk(self, choice: completions.CompletionChoice) -> completions.Completion:
        return completions.Completion(**self.heading, choices=[choice])

    def _logprobs(self, tokens: Sequence[Token], start: int) -> completions.CompletionLogprobs | None:
        if not self.with_logprobs:
            return None
        reported = _reported(tokens)
        lengths = [len(token.text) for token, _ in reported]
        return completions.CompletionLogprobs(
            tokens=[piece_text(token.piece) for token, _ in reported],
            token_logprobs=[logprob for _, logprob in reported],
            top_logprobs=[{piece_text(top.piece): top.logprob for top in token.top_logprobs} for token, _ in reported],
            text_offset=list(itertools.accumulate(lengths, initial=start))[: len(lengths)],
        )


def piece_text(piece: bytes) -> str:
    """A token's piece as text; a part of a character as OpenAI writes it, `bytes:\\xe2\\x82`."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def finish_reason(reason: FinishReason) -> answer.FinishReason:
    """In OpenAI's words. A request that was called off has no client left to read it."""
    return "length" if reason is FinishReason.LENGTH else "stop"


def _reported(tokens: Sequence[Token]) -> list[tuple[Token, float]]:
    """Tokens with their log probabilities; an end token that only brings held back text has none."""
    return [(token, token.logprob) for token in tokens if token.logprob is not None]
