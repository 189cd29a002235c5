# SPDX-License-Identifier: MIT
"""Guesses at what a sequence goes on with, so that one trip down the line can bring several tokens: the last stage
samples after each guess as long as the guesses before were right. Pure; the scheduler's.

`Lookup` guesses that what followed the last few tokens before follows them again, in the sequence's own text or in one
that was finished lately ("prompt lookup", as llama.cpp's and Hugging Face's assisted generation have it). Those of a
draft model are in `offers`. `Rates` knows how often guesses are right; `n_worth` says how many pay for what they cost
to compute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_N_GRAM = 3
"""Tokens that must agree. Two agree by chance too often; four begin a token later for nothing."""

_LONGEST_MATCH = 16
"""Tokens; a longer agreement says no more."""

_CLASSES = (3, 4, 6, 9, _LONGEST_MATCH)
"""Where the classes of matches begin, in tokens."""

_PRIORS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.7)
"""How many guesses are right, by class, before any were made; the last class is the draft model's."""

_PRIOR_WEIGHT = 4.0
_REMEMBERED = 64.0
"""Guesses of a class that its rate is about."""

_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Guesses per frame that are considered."""

WORTH = 1.05
"""Guessing has to promise 5 % more tokens per second: what it promises is an estimate."""

_OTHERS = 8
"""Finished sequences that are looked at."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Guessed tokens, and how many tokens before them agreed; None: a draft model made them."""

    tokens: list[int]
    n_matched: int | None


class Lookup:
    """One text that guesses are taken from."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        # Where the tokens go on after the last place that each n-gram was at.
        self._after: dict[tuple[int, ...], int] = {}

    def extend(self, tokens: Sequence[int]) -> None:
        """The text goes on."""
        own = self._tokens
        n_known = len(own)
        own += tokens
        for end in range(max(n_known, _N_GRAM), len(own)):
            # An n-gram is known when something follows it.
            self._after[tuple(own[end - _N_GRAM : end])] = end

    def guess(self, context: Sequence[int], n_most: int) -> Draft | None:
        """What may follow a context, which is this text, or another, or this one with guesses at its end."""
        end = self._after.get(tuple(context[-_N_GRAM:])) if len(context) >= _N_GRAM else None
        if end is None or n_most < 1:
            return None
        own = self._tokens
        n_matched = _N_GRAM
        while (
            n_matched < min(_LONGEST_MATCH, end, len(context)) and own[end - n_matched - 1] == context[-n_matched - 1]
        ):
            n_matched += 1
        tokens = own[end : end + n_most]
        while len(tokens) < n_most:
            # The text ends here: it repeats itself, and so does the guess.
            tokens += tokens[: n_most - len(tokens)]
        return Draft(tokens, n_matched)


class Library:
    """The last finished texts."""

    def __init__(self) -> None:
        self._texts: deque[Lookup] = deque(maxlen=_OTHERS)

    def add(self, text: Lookup) -> None:
        """A text that is finished."""
        self._texts.appendleft(text)

    def guess(self, own: Lookup, context: Sequence[int], n_most: int) -> Draft | None:
        """From the text itself, else from the newest of the others that has it."""
        for text in (own, *self._texts):
            draft = text.guess(context, n_most)
            if draft is not None:
                return draft
        return None


class Rates:
    """How often guesses were right."""

    def __init__(self) -> None:
        self._right = [_PRIOR_WEIGHT * prior for prior in _PRIORS]
        self._made = [_PRIOR_WEIGHT] * len(_PRIORS)
        self.n_right = 0
        self.n_made = 0

    def rate(self, n_matched: int | None) -> float:
        """The share of guesses after such a match (None: of a draft model) that were right, of those whose predecessors
        were."""
        number = _class_of(n_matched)
        return self._right[number] / self._made[number]

    def note(self, n_matched: int | None, n_right: int, *, was_wrong: bool) -> None:
        """So many guesses in a row were right, and the next one wrong, if `was_wrong`; else there was no next one."""
        number, n_made = _class_of(n_matched), n_right + was_wrong
        kept = min(1.0, _REMEMBERED / (self._made[number] + n_made))
        self._right[number] = kept * (self._right[number] + n_right)
        self._made[number] = kept * (self._made[number] + n_made)
        self.n_right += n_right
        self.n_made += n_made


def n_worth(rate: float, n_most: int, frame_s: Callable[[int], float], worth: float = WORTH) -> int:
    """How many guesses bring most tokens per second; 0 if none is better.

    Args:
        rate: Share of the guesses that are right.
        frame_s: Seconds from one frame to the next with so many guesses in each.
        worth: How many times the tokens per second it has to promise.
    """
    best, best_pace = 0, worth / frame_s(0)
    for n_guesses in _COUNTS:
        if n_guesses > n_most:
            break
        pace = expected_tokens(rate, n_guesses) / frame_s(n_guesses)
        if pace > best_pace:
            best, best_pace = n_guesses, pace
    return best


def expected_tokens(rate: float, n_guesses: int) -> float:
    """That a frame with guesses brings: the first is always right, each other one if all before it were."""
    return sum(rate**number for number in range(n_guesses + 1))


def _class_of(n_matched: int | None) -> int:
    if n_matched is None:
        return len(_CLASSES)
    return sum(n_matched >= start for start in _CLASSES) - 1
