# SPDX-License-Identifier: MIT
"""Headers of models whose weights are elsewhere, kept on this machine: files as large as the model's own that hold the
headers, and are holes otherwise. Beside them what each reference led to, for times without a network.

A folder is made under another name and moved into place when it is whole, so that what is there is to be used.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from coordinator.cache import bound_folder, key_of
from coordinator.errors import ModelError, SourceError
from native import ModelFileError, ModelLayout, NativeError, header_size, read_layout
from native.header_limits import MAX_HEADER_BYTES
from protos.cache_folder import cache_folder

_FOLDER = "headers"
_REFERENCES = "references"
_MOST_KEPT = 64
"""Models; 10 MB each. The least recently used goes."""
_MOST_REFERENCES = 512

_RECORD = "caravan.json"
_MAX_RECORD_BYTES = 4 << 20
"""A thousand parts with long names take a tenth of it."""

_FIRST_BYTES = 8 << 20
"""Holds most vocabularies."""

_LATER_PART_BYTES = 512 << 10
"""A later part has a table of tensors and no vocabulary."""

_CHUNK_BYTES = 1 << 20

ReadInto = Callable[[int, memoryview], None]
"""Fills the memory with the bytes from an offset on."""


@dataclass(frozen=True, slots=True)
class KeptPart:
    """A part of a model that is elsewhere."""

    file_name: str
    n_bytes: int
    n_header_bytes: int


@dataclass(frozen=True, slots=True)
class KeptHeaders:
    """Headers on this machine; `key` names their folder, and the bytes of the model they are of."""

    key: str
    layout: ModelLayout
    parts: tuple[KeptPart, ...]


def fetch_header(path: Path, n_bytes: int, shown: str, read_into: ReadInto, *, is_first: bool) -> int:
    """Writes a part's header, a hole behind it, and returns its size. No more than what came is ever in memory.

    Args:
        path: Where; not there yet.
        n_bytes: Of the whole part.
        shown: What to call it in sentences.

    Raises:
        ModelError: It is no GGUF, or a damaged one.
        SourceError: The disk is full, or cannot hold such a file.
    """
    wanted, have = min(_FIRST_BYTES if is_first else _LATER_PART_BYTES, n_bytes), 0
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    try:
        while True:
            with path.open("ab") as file:
                while have < wanted:
                    view = buffer[: min(_CHUNK_BYTES, wanted - have)]
                    read_into(have, view)
                    file.write(view)
                    have += len(view)
            size = header_size(path)
            if size is not None:
                os.truncate(path, size)
                os.truncate(path, n_bytes)
                return size
            if have >= min(n_bytes, MAX_HEADER_BYTES):
                raise ModelError(f"{shown}: the GGUF header is damaged or cut off: choose another file")
            wanted = min(2 * have, n_bytes, MAX_HEADER_BYTES)
    except ModelFileError as error:
        raise ModelError(f"{shown}: {error.reason}") from None
    except OSError as error:
        raise _unwritable(path.parent, error) from None


def recalled(key: str) -> KeptHeaders | None:
    """The headers of that key, if they are here as they should be."""
    folder = _folder() / key
    try:
        with (folder / _RECORD).open("rb") as file:
            record = json.loads(file.read(_MAX_RECORD_BYTES))
        parts = tuple(KeptPart(**part) for part in record["parts"])
        layout = read_layout(folder / parts[0].file_name)
        sizes = [path.stat().st_size for path in layout.files]
    except (OSError, ValueError, TypeError, LookupError, NativeError):
        return None
    with contextlib.suppress(OSError):
        os.utime(folder)
    as_kept = layout.identity == record["identity"] and sizes == [part.n_bytes for part in parts]
    return KeptHeaders(key, layout, parts) if as_kept else None


def keep(key: str, parts: Sequence[KeptPart], write: Callable[[Path, KeptPart], int]) -> KeptHeaders:
    """Makes a folder of these parts' headers.

    Args:
        write: Writes a part's header to a path and returns its size; see `fetch_header`.

    Raises:
        ModelError: They are no model that can be used.
        SourceError: The disk is full.
    """
    folder = _folder() / key
    new = folder.with_name(f"{key}.{secrets.token_hex(4)}.new")
    try:
        new.mkdir(parents=True)
        done = tuple(_with_header(part, write(new / part.file_name, part)) for part in parts)
        try:
            layout = read_layout(new / done[0].file_name)
        except ModelFileError as error:
            raise ModelError(f"{error.path.name}: {error.reason}") from None
        record = {"identity": layout.identity, "parts": [asdict(part) for part in done]}
        (new / _RECORD).write_text(json.dumps(record), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            new.rename(folder)
        except OSError:
            if recalled(key) is None:  # else another process made the same at the same time
                raise
    except OSError as error:
        raise _unwritable(folder.parent, error) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
    bound_folder(_FOLDER, _MOST_KEPT - 1, keeping=[key, _REFERENCES])
    return KeptHeaders(key, read_layout(folder / done[0].file_name), done)


def forget(key: str) -> None:
    """Removes the headers of that key."""
    shutil.rmtree(_folder() / key, ignore_errors=True)


def remember(reference: str, key: str) -> None:
    """Notes what a reference led to. That it cannot be noted is no reason to fail."""
    path = _reference_path(reference)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(key, encoding="ascii")
    bound_folder(f"{_FOLDER}/{_REFERENCES}", _MOST_REFERENCES)


def what_was(reference: str) -> KeptHeaders | None:
    """The headers that a reference led to the last time."""
    try:
        with _reference_path(reference).open(encoding="ascii") as file:
            key = file.read(64)
    except (OSError, ValueError):
        return None
    return recalled(key) if key.isalnum() else None


def _with_header(part: KeptPart, n_header_bytes: int) -> KeptPart:
    return KeptPart(part.file_name, part.n_bytes, n_header_bytes)


def _folder() -> Path:
    return cache_folder() / _FOLDER


def _reference_path(reference: str) -> Path:
    return _folder() / _REFERENCES / key_of(reference)


def _unwritable(folder: Path, error: OSError) -> SourceError:
    return SourceError(
        f"the header of the model cannot be kept in {folder}: {error.strerror or error}; make room there, or set "
        "CARAVAN_CACHE to a folder elsewhere"
    )
