# SPDX-License-Identifier: MIT
"""Whom lines fail at, again and again, so that another one is better laid without them. Pure; times are of whoever
asks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

_MOST_STRIKES = 2
"""At one worker, until it is doubtful."""

_REMEMBERED_S = 60.0
"""Over a link that loses packets some tokens come, and then the line breaks, again and again."""


@dataclass(frozen=True, slots=True)
class _Strike:
    worker: str
    neighbour: str | None
    at_s: float
    is_of_link: bool


class Strikes:
    """Of one line after another."""

    def __init__(self) -> None:
        self._strikes: list[_Strike] = []

    def note(self, worker: str, now_s: float, *, is_of_link: bool, neighbour: str | None = None) -> None:
        """A line failed at it.

        Args:
            is_of_link: It is there, and could not be talked to.
            neighbour: Who is at the other end of that link, and may be to blame as well.
        """
        self._strikes.append(_Strike(worker, neighbour, now_s, is_of_link))

    def note_worked(self, now_s: float) -> None:
        """A line brought something before it broke: that makes up for all but links that failed just now."""
        self._strikes = [
            strike for strike in self._strikes if strike.is_of_link and now_s - strike.at_s < _REMEMBERED_S
        ]

    @property
    def doubtful(self) -> frozenset[str]:
        """Workers that are better done without: those that were most often where a line failed, if that was more than
        once, and of two ends of a link the one that was talked to."""
        named = Counter(strike.worker for strike in self._strikes)
        ends = named + Counter(strike.neighbour for strike in self._strikes if strike.neighbour is not None)
        most = max(((n_times, named[worker]) for worker, n_times in ends.items()), default=(0, 0))
        if most[0] < _MOST_STRIKES:
            return frozenset()
        return frozenset(worker for worker, n_times in ends.items() if (n_times, named[worker]) == most)
