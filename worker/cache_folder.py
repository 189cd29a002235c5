# SPDX-License-Identifier: MIT
"""Where this user keeps what can be made or fetched again: benchmarks and weights. The coordinator uses it too."""

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "CARAVAN_CACHE"


def cache_folder() -> Path:
    """Below CARAVAN_CACHE, or else the system's own place for that; it need not exist."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("caravan", appauthor=False))
