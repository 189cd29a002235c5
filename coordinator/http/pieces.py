# SPDX-License-Identifier: MIT
"""What forms tell: some tokens of an answer, or all of it. Pure data, and how tokens are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.generation import FinishReason, Token, Usage
from coordinator.http.schemas.answer import Timings


@dataclass(frozen=True, slots=True)
class Piece:
    """Some consecutive tokens of one answer with the text they brought.

    Attributes:
        timings: What it took until then; None: nobody wants to know.
    """

    index: int
    tokens: Sequence[Token]
    text: str
    timings: Timings | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """One whole answer.

    Attributes:
        slot: As of its stream.
    """

    index: int
    tokens: Sequence[Token]
    text: str
    reason: FinishReason
    usage: Usage
    slot: int = -1


def piece_text(piece: bytes) -> str:
    """A token's piece as text; a part of a character as OpenAI writes it, `bytes:\\xe2\\x82`."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def reported(tokens: Sequence[Token]) -> list[tuple[Token, float]]:
    """Tokens with their log probabilities; an end token that only brings held back text has none."""
    return [(token, token.logprob) for token in tokens if token.logprob is not None]
