# SPDX-License-Identifier: MIT
"""Who may reach the HTTP API: under which names, with which keys, from which web pages."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.http.api_keys import Keys


@dataclass(frozen=True, slots=True)
class Access:
    """What `caravan serve` was told.

    Attributes:
        is_local: Whether it listens on this machine alone: then under no other name than localhost.
        names: Host names under which it may be asked for, beside those.
        keys: Who may ask; None: everybody who reaches it.
        origins: Of web pages that may ask from a browser.
    """

    is_local: bool = True
    names: tuple[str, ...] = ()
    keys: Keys | None = None
    origins: tuple[str, ...] = ()
