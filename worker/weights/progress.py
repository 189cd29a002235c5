# SPDX-License-Identifier: MIT
"""How far a fetch is: which bytes came from where, and how many are still to come. Pure; its fetch guards it."""

from collections import Counter
from dataclasses import dataclass

from worker.weights.sources import Source


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """Bytes of a stage's tensors: all, to come from other machines, come from there, and all that came by source."""

    needed_bytes: int = 0
    to_fetch_bytes: int = 0
    fetched_bytes: int = 0
    by_source: tuple[tuple[Source, int], ...] = ()


class Tally:
    """Counts. What came wrong has come all the same, and is to come once more."""

    def __init__(self) -> None:
        self._needed_bytes = 0
        self._to_fetch_bytes = 0
        self._fetched_bytes = 0
        self._by_source: Counter[Source] = Counter()

    def needed(self, n_bytes: int) -> None:
        """So many more are needed, wherever they are."""
        self._needed_bytes += n_bytes

    def to_fetch(self, n_bytes: int) -> None:
        """So many more are to come from other machines; fewer, if negative."""
        self._to_fetch_bytes += n_bytes

    def fetched(self, source: Source, n_bytes: int) -> None:
        """So many came from another machine."""
        self._fetched_bytes += n_bytes
        self._by_source[source] += n_bytes

    def found(self, source: Source, n_bytes: int) -> None:
        """So many were here."""
        self._by_source[source] += n_bytes

    def progress(self) -> FetchProgress:
        """As it is now."""
        came = ((source, n_bytes) for source, n_bytes in self._by_source.items() if n_bytes)
        by_source = sorted(came, key=lambda item: (item[0].origin, item[0].worker))
        return FetchProgress(self._needed_bytes, self._to_fetch_bytes, self._fetched_bytes, tuple(by_source))
