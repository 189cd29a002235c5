# SPDX-License-Identifier: MIT
"""Where this user keeps what can be made or fetched again: headers, measurements, weights. Coordinator and workers of
one user have one folder, so that neither fetches what the other has.
"""

import os
import secrets
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "CARAVAN_CACHE"


def cache_folder() -> Path:
    """Below CARAVAN_CACHE, or else the system's own place for that; it need not exist."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("caravan", appauthor=False))


def write_whole(path: Path, text: str) -> None:
    """Writes a small file, and its folder if there is none: all of it or nothing, whoever reads or writes it meanwhile.

    Raises:
        OSError: it cannot be written; what was there still is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
