# SPDX-License-Identifier: MIT
"""All of a model's files on this machine, where it is to be loaded here: those of a source on a server are fetched into
this user's cache, once. Blocks; called on a thread of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

from coordinator.cache import key_of
from coordinator.errors import SourceError
from coordinator.weights.errand import Errand, FetchStep
from coordinator.weights.local import LocalSource
from coordinator.weights.source import WeightSource
from protos.cache_folder import cache_folder

_CHUNK_BYTES = 8 << 20


def whole_file(source: WeightSource, errand: Errand) -> Path:
    """The model's (first) file, when all of them are here.

    Raises:
        SourceError: They cannot be fetched, or not be kept.
        CancelledError: It was called off.
    """
    if isinstance(source, LocalSource):
        return source.layout.path
    folder = cache_folder() / "models" / key_of(source.layout.identity, source.version)
    paths = [folder / part.file_name for part in source.parts]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(source, paths, errand)
    except OSError as error:
        raise SourceError(
            f"{source.name} cannot be kept in {folder}: {error.strerror or error}; make room there, or set "
            "CARAVAN_CACHE to a folder elsewhere"
        ) from None
    return paths[0]


def _fetch(source: WeightSource, paths: list[Path], errand: Errand) -> None:
    """Those that are not there; each has its name when it is complete."""
    done_bytes, total_bytes = 0, sum(part.n_bytes for part in source.parts)
    buffer = bytearray(_CHUNK_BYTES)
    with source.reader(errand.cancellation) as reader:
        for number, (path, part) in enumerate(zip(paths, source.parts, strict=True)):
            if path.exists() and path.stat().st_size == part.n_bytes:
                done_bytes += part.n_bytes
                continue
            partial = path.with_suffix(f".{os.getpid()}")
            try:
                with partial.open("wb") as file:
                    for offset in range(0, part.n_bytes, _CHUNK_BYTES):
                        errand.cancellation.check()
                        view = memoryview(buffer)[: min(_CHUNK_BYTES, part.n_bytes - offset)]
                        reader.read_into(number, offset, view, until=part.n_bytes)
                        file.write(view)
                        done_bytes += len(view)
                        errand.tell(FetchStep(f"fetching {source.name} to this machine", done_bytes, total_bytes))
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
