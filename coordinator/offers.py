# SPDX-License-Identifier: MIT
"""What a draft model offers: guesses at how a text goes on, made beside the line and whenever they are ready. Plain
values and, for one sequence, which of its offers still hold. Pure; between the scheduler and `draft_model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DraftContext:
    """What a draft model is told of a slot: how its text goes on, and how far to guess.

    Attributes:
        request_id: Whose text it is; another one's than before begins with `start` 0.
        start: Where `tokens` begin in the text; those before are as told before.
        tokens: To the end of the text.
        until: Guess the tokens before this position; 0: the request has ended, and its text does not matter any more.
    """

    slot: int
    request_id: int
    start: int
    tokens: tuple[int, ...]
    until: int


@dataclass(frozen=True, slots=True)
class Offer:
    """Guesses of a draft model.

    Attributes:
        n_known: Tokens of the text that it knew; from there on it goes by its own guesses.
        start: Position in the text of the first of `tokens`.
        took_s: Seconds that each took.
    """

    request_id: int
    n_known: int
    start: int
    tokens: tuple[int, ...]
    took_s: float = 0.0


class Offers:
    """Those for one sequence that agree with its text, and go on from it without a gap."""

    __slots__ = ("_n_since", "_start", "_tokens")

    def __init__(self, n_text: int) -> None:
        self._start = n_text
        self._tokens: list[int] = []
        # What knew fewer tokens of the text than this went by a guess that was wrong.
        self._n_since = 0

    def add(self, offer: Offer, text: Sequence[int]) -> bool:
        """Takes what holds of an offer; whether that goes beyond what was there."""
        if offer.n_known < self._n_since:
            return False
        n_before = self._end
        for position, token in enumerate(offer.tokens, offer.start):
            if position < len(text):
                if text[position] != token:
                    self._n_since = position + 1
                    break
            elif position == max(self._end, len(text)):
                if position > self._end:
                    # The text went on beyond what was offered.
                    self._start = position
                    self._tokens.clear()
                self._tokens.append(token)
        return self._end > n_before

    def note(self, position: int, token: int) -> bool | None:
        """The text has this token there; whether that was offered, None if nothing was."""
        if not self._start <= position < self._end:
            return None
        if self._tokens[position - self._start] == token:
            return True
        self._tokens.clear()
        self._start = self._n_since = position + 1
        return False

    def after(self, position: int, n_most: int) -> list[int]:
        """What was offered from there on."""
        first = position - self._start
        return self._tokens[first : first + max(0, n_most)] if first >= 0 else []

    @property
    def _end(self) -> int:
        return self._start + len(self._tokens)
