# SPDX-License-Identifier: MIT
"""Sequences that are prefilled one after the other, because one of them may be what breaks lines: then it shows which.
Pure; the scheduler's, in a line that follows several which broke.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from coordinator.sequence import Phase, RunningSequence


class Trials:
    """Those that are held until nothing more is to be learned of the one before."""

    def __init__(self, sequences: Iterable[RunningSequence] = ()) -> None:
        self._held = deque(sequences)
        self._tried: RunningSequence | None = None
        self._n_before = 0

    def __bool__(self) -> bool:
        return bool(self._held)

    def append(self, sequence: RunningSequence) -> None:
        """One more, behind the others."""
        self._held.append(sequence)

    def due(self) -> list[RunningSequence]:
        """Those that may be prefilled now: the next one, if the one before has a token, or will have none."""
        due = []
        while self._held and self._is_told():
            sequence = self._held.popleft()
            if sequence.phase is not Phase.ENDED:
                self._tried, self._n_before = sequence, sequence.n_generated
                due.append(sequence)
        return due

    def _is_told(self) -> bool:
        tried = self._tried
        if tried is None or tried.phase is Phase.ENDED or tried.is_paused:
            return True
        return tried.n_generated > self._n_before
