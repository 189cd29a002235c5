# SPDX-License-Identifier: MIT
"""TOML files that people write: read with bounds, every fault one sentence. For inventories and the configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_BYTES = 1 << 20


class TomlError(Exception):
    """A text is no TOML, or there is none; the message names the file, and not what to do."""


def read_text(path: Path) -> str:
    """The file's text.

    Raises:
        TomlError: It cannot be read, is too large, or is no text.
        FileNotFoundError: It is not there.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} is not there") from error
    except OSError as error:
        raise TomlError(f"{path} cannot be read ({error.strerror})") from error
    if len(content) > _MAX_BYTES:
        raise TomlError(f"{path} is larger than {_MAX_BYTES >> 20} MiB")
    try:
        return content.decode("utf-8-sig")  # Windows' editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise TomlError(f"{path} is not UTF-8 text") from error


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """What a text says.

    Args:
        source: What to call it in messages.

    Raises:
        TomlError: It is no TOML; the message tells the line.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TomlError(f"{source} is not TOML: {error}") from error
    except RecursionError as error:
        raise TomlError(f"{source} is not TOML: its brackets are nested too deep") from error
