# SPDX-License-Identifier: MIT
"""Where this user keeps what can be made again: below CARAVAN_CACHE, or else the system's own place for that. Workers
keep their benchmarks in the same folder.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The folder; it need not exist."""
    return Path(os.environ.get("CARAVAN_CACHE") or platformdirs.user_cache_path("caravan", appauthor=False))


def key_of(*facts: object) -> str:
    """A name for a file or folder there that stands for exactly these facts."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
