# SPDX-License-Identifier: MIT
"""Fetching something for somebody who waits: how it is called off, how he hears how far it is, how fast it may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from coordinator.weights.cancellation import Cancellation


@dataclass(frozen=True, slots=True)
class FetchStep:
    """How far it is.

    Attributes:
        message: A sentence for a person.
        done_bytes: Of what the message tells.
        total_bytes: None: nobody knows, or there is nothing to count.
    """

    message: str
    done_bytes: int = 0
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Errand:
    """Handed to whatever looks for a source.

    Attributes:
        tell: Called on the thread that works.
        max_bytes_per_s: None: no limit.
    """

    tell: Callable[[FetchStep], None]
    max_bytes_per_s: int | None = None
    cancellation: Cancellation = field(default_factory=Cancellation)
