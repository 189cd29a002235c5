# SPDX-License-Identifier: MIT
"""What the coordinator keeps in the user's cache folder: small JSON files, and folders that do not grow for ever."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from protos.cache_folder import cache_folder, write_whole

_LOG = logging.getLogger(__name__)


def keep_json(name: str, content: object) -> None:
    """Writes a file of the folder, whole or not at all; what cannot be written is not worth an error."""
    path = cache_folder() / name
    try:
        write_whole(path, json.dumps(content, indent=2))
    except OSError as error:
        _LOG.info("%s is not kept: %s", path, error)


def bound_folder(name: str, most: int, *, keeping: Collection[str] = ()) -> None:
    """Deletes of a folder there what was changed longest ago, until `most` entries are left; what cannot be deleted
    stays.

    Args:
        keeping: Entries that stay, and do not count.
    """
    found: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError):
        for path in (cache_folder() / name).iterdir():
            with contextlib.suppress(OSError):
                if path.name not in keeping:
                    found.append((path.stat().st_mtime, path))
    for _, path in sorted(found)[: max(0, len(found) - most)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def key_of(*facts: object) -> str:
    """A name for a file or folder there that stands for exactly these facts."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
