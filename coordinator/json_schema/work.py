# SPDX-License-Identifier: MIT
"""How much may be done for one schema: it comes from the network, and its reading shares a processor with the line."""

from __future__ import annotations

from coordinator.errors import SchemaError

MAX_WORK = 500_000
"""Of steps of one to a few microseconds: about a second in all. Large schemas of use take a tenth of it."""


class Work:
    """Counts the steps of one conversion."""

    def __init__(self, limit: int = MAX_WORK) -> None:
        self._limit = limit
        self._left = limit

    @property
    def spent(self) -> int:
        """Steps so far."""
        return self._limit - self._left

    def spend(self, n_steps: int) -> None:
        """Raises SchemaError when all is spent."""
        self._left -= n_steps
        if self._left < 0:
            raise SchemaError("it takes too long to make a grammar of it: make it simpler", "#")
