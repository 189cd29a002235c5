# SPDX-License-Identifier: MIT
"""Where this user keeps what can be made again: below CARAVAN_CACHE, or else the system's own place for that. Workers
keep their benchmarks in the same folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The folder; it need not exist."""
    return Path(os.environ.get("CARAVAN_CACHE") or platformdirs.user_cache_path("caravan", appauthor=False))
