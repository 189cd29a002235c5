# SPDX-License-Identifier: MIT
"""The files of a model that a coordinator offers, as far as a stranger's word for them can be taken. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from worker.errors import BadRequestError

# Of all parts together. The largest that we know of, of a vocabulary of 256,000 tokens, has 16 MiB.
HEADERS_LIMIT_BYTES = 256 << 20
# gguf-split counts them with five digits; nobody makes that many.
_MAX_PARTS = 1024
# What a file system takes as one name.
_MAX_NAME_BYTES = 255
# Of a stamp, which is a SHA-256 in hexadecimal digits, or nothing.
_MAX_STAMP_LENGTH = 64
# Of files: what no file system has. Source: off_t is signed.
_MAX_FILE_BYTES = 1 << 62
# Separators of any system, and what no name has.
_NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f]")
_IDENTITY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Part:
    """One file: its name without folders, its size, how much of it is header, and which file it is (`file_stamp`)."""

    file_name: str
    n_bytes: int
    n_header_bytes: int
    stamp: str = ""


def is_identity(text: str) -> bool:
    """Whether it is the hex SHA-256 that every model has."""
    return _IDENTITY.fullmatch(text) is not None


def check_parts(parts: Sequence[Part]) -> None:
    """Raises BadRequestError for what can be no model's files."""
    if not 1 <= len(parts) <= _MAX_PARTS:
        raise BadRequestError(f"a model has 1 to {_MAX_PARTS} files, not {len(parts)}")
    for part in parts:
        _check_name(part.file_name)
        if not 0 < part.n_header_bytes <= part.n_bytes <= _MAX_FILE_BYTES:
            raise BadRequestError(
                f"{part.file_name!r} is offered with {part.n_bytes} bytes, of which {part.n_header_bytes} are header:"
                " no file is like that"
            )
        if len(part.stamp) > _MAX_STAMP_LENGTH:
            raise BadRequestError(
                f"{part.file_name!r} is offered with a stamp of {len(part.stamp)} letters: no stamp has so many"
            )
    n_header_bytes = sum(part.n_header_bytes for part in parts)
    if n_header_bytes > HEADERS_LIMIT_BYTES:
        raise BadRequestError(
            f"the model's header has {n_header_bytes} bytes; at most {HEADERS_LIMIT_BYTES >> 20} MiB are allowed"
        )
    if len({part.file_name.casefold() for part in parts}) < len(parts):
        raise BadRequestError("two files of the model have one name")


def _check_name(name: str) -> None:
    is_name = name not in ("", ".", "..") and len(name.encode(errors="replace")) <= _MAX_NAME_BYTES
    if not is_name or _NO_NAME.search(name):
        raise BadRequestError(f"{name!r} is no file name")
