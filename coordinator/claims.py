# SPDX-License-Identifier: MIT
"""Whose workers are whose: a worker holds one line, so what one line has, or is about to have, no other one of this
coordinator takes, of whichever mesh. Used when a mesh opens and by what keeps its lines, on their event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol


class Claimant(Protocol):
    """A line, or a mesh that is being opened."""

    @property
    def claimed(self) -> frozenset[str]:
        """Names of the workers that are its own, or about to be."""


class Claims:
    """Those of all lines that know of each other.

    Attributes:
        turn: Held by the one that chooses workers.
        has_served: Whether there was a line. Who was named by address has to be there for the first one; for those that
            follow, hours later, whoever is there will do, as for a line that breaks.
    """

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.has_served = False
        self._claimants: list[Claimant] = []

    def enter(self, claimant: Claimant) -> None:
        """From now on its workers are its own."""
        self._claimants.append(claimant)

    def leave(self, claimant: Claimant) -> None:
        """It has none any more; safe to repeat."""
        with contextlib.suppress(ValueError):
            self._claimants.remove(claimant)

    def of_others(self, own: Claimant) -> frozenset[str]:
        """Names of workers that this one may not take."""
        return frozenset(name for other in self._claimants if other is not own for name in other.claimed)


class OpeningClaim:
    """What a mesh claims that is being opened: first all that could take part, then those of its plan.

    Args:
        lent: Workers that count as if nobody had them, for a plan only: addresses by name, empty where not known.
    """

    def __init__(self, claims: Claims, lent: Mapping[str, str]) -> None:
        self.claims = claims
        self.lent = lent
        self.claimed: frozenset[str] = frozenset()

    @property
    def taken(self) -> frozenset[str]:
        """Names of workers that others have."""
        return self.claims.of_others(self) - self.lent.keys()

    def note(self, names: Collection[str]) -> None:
        """These are its own now, and no others; what is lent stays whose it is."""
        self.claimed = frozenset(names) - self.lent.keys()


@contextlib.contextmanager
def opening_claim(claims: Claims | None, lent: Mapping[str, str] = {}) -> Iterator[OpeningClaim]:
    """A claim for as long as a mesh is being opened.

    Args:
        claims: Of the coordinator's other meshes; None: there are none.
    """
    claim = OpeningClaim(claims or Claims(), lent)
    claim.claims.enter(claim)
    try:
        yield claim
    finally:
        claim.claims.leave(claim)
