# SPDX-License-Identifier: MIT
"""Where this user keeps what can be made again: below CARAVAN_CACHE, or else the system's own place for that. Workers
keep their benchmarks in the same folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import platformdirs

_LOG = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder; it need not exist."""
    return Path(os.environ.get("CARAVAN_CACHE") or platformdirs.user_cache_path("caravan", appauthor=False))


def keep_json(name: str, content: object) -> None:
    """Writes a file of the folder, whole or not at all; what cannot be written is not worth an error."""
    path = cache_folder() / name
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(content, indent=2), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        _LOG.info("%s is not kept: %s", path, error)


def key_of(*facts: object) -> str:
    """A name for a file or folder there that stands for exactly these facts."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
