# SPDX-License-Identifier: MIT
"""The BLAKE3 hash of every tensor, by which workers know what they got: made when one is first asked for, of the
source's own bytes, and remembered, so that a model is hashed once. Used by the threads that give weights.
"""

from __future__ import annotations

import contextlib
import re
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from coordinator.cache import bound_folder, key_of
from coordinator.errors import ModelError
from coordinator.weights.source import WeightReader, WeightSource
from protos.cache_folder import cache_folder
from protos.weights import HASH_BYTES

_CHUNK_BYTES = 4 << 20

_FOLDER = "hashes"
_MOST_KEPT = 256
"""Models whose hashes are remembered; a hundred kilobytes each."""

_MAX_LINE_BYTES = 96

_LINE = re.compile(rf"(\d{{1,9}}) ([0-9a-f]{{{2 * HASH_BYTES}}}) ([0-9a-f]{{8}})")
"""A tensor's number, its hash, and the CRC of both: a line that was half written is none."""


@dataclass(slots=True)
class _Hashing:
    """A tensor's hash as far as it is."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    hasher: blake3 = field(default_factory=blake3)
    n_bytes: int = 0


class TensorHashes:
    """Hashes of one source's tensors, by their number in the order of the tensor tables of all parts."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._path = _remembered_in(source)
        self._known = _read(self._path, len(source.layout.tensors))
        self._begun: dict[int, _Hashing] = {}

    def known(self, tensors: Sequence[int]) -> dict[int, bytes]:
        """Those of these that need nothing to be read."""
        with self._lock:
            return {tensor: self._known[tensor] for tensor in tensors if tensor in self._known}

    def feed(self, tensor: int, offset: int, data: memoryview) -> None:
        """Bytes of a tensor that pass by on their way to a worker. Where they come in order, nothing has to be read a
        second time for its hash: from a server, that would be fetched a second time."""
        with self._lock:
            if tensor in self._known:
                return
            hashing = self._begun.setdefault(tensor, _Hashing())
        if not hashing.lock.acquire(blocking=False):
            return
        try:
            if hashing.n_bytes == offset:
                hashing.hasher.update(data)
                hashing.n_bytes += len(data)
                if hashing.n_bytes == self._source.layout.tensors[tensor].n_bytes:
                    self._learn(tensor, hashing)
        finally:
            hashing.lock.release()

    def hash_of(self, tensor: int, reader: WeightReader) -> bytes:
        """The hash; where it is not known, what is missing is read, by one thread while others wait for it.

        Raises:
            ModelError: It cannot be read, or changed.
            CancelledError: It was called off.
        """
        with self._lock:
            if tensor in self._known:
                return self._known[tensor]
            hashing = self._begun.setdefault(tensor, _Hashing())
        with hashing.lock:
            try:
                self._finish(tensor, hashing, reader)
            except ModelError:
                # What was hashed may be of two versions of a file.
                with self._lock:
                    self._begun.pop(tensor, None)
                raise
        with self._lock:
            return self._known[tensor]

    def _finish(self, tensor: int, hashing: _Hashing, reader: WeightReader) -> None:
        about = self._source.layout.tensors[tensor]
        end = about.offset_bytes + about.n_bytes
        buffer = memoryview(bytearray(min(_CHUNK_BYTES, about.n_bytes - hashing.n_bytes)))
        while hashing.n_bytes < about.n_bytes:
            view = buffer[: about.n_bytes - hashing.n_bytes]
            reader.read_into(about.file_index, about.offset_bytes + hashing.n_bytes, view, until=end)
            hashing.hasher.update(view)
            hashing.n_bytes += len(view)
        reader.check(about.file_index)
        self._learn(tensor, hashing)

    def _learn(self, tensor: int, hashing: _Hashing) -> None:
        digest = hashing.hasher.digest()
        with self._lock:
            if tensor in self._known:
                return
            self._known[tensor] = digest
            self._begun.pop(tensor, None)
        if self._path is not None:
            _append(self._path, tensor, digest)


def _remembered_in(source: WeightSource) -> Path | None:
    if not source.version:
        return None
    return cache_folder() / _FOLDER / f"{key_of(source.layout.identity, source.version)}.txt"


def _read(path: Path | None, n_tensors: int) -> dict[int, bytes]:
    """What was remembered; what cannot be read was not."""
    known: dict[int, bytes] = {}
    if path is None:
        return known
    with contextlib.suppress(OSError, ValueError), path.open(encoding="ascii") as file:
        for line in file.read(_MAX_LINE_BYTES * n_tensors).splitlines():
            match = _LINE.fullmatch(line)
            if match and int(match[1]) < n_tensors and match[3] == _checksum(match[1], match[2]):
                known[int(match[1])] = bytes.fromhex(match[2])
    return known


def _append(path: Path, tensor: int, digest: bytes) -> None:
    """Remembers one more. A cache that cannot be written to is no reason to fail."""
    line = f"{tensor} {digest.hex()} {_checksum(str(tensor), digest.hex())}\n"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            bound_folder(_FOLDER, _MOST_KEPT - 1)
        # Begun anew: a line before that was half written must not swallow this one.
        with path.open("ab") as file:
            file.write(("\n" + line).encode("ascii"))


def _checksum(tensor: str, digest: str) -> str:
    return f"{zlib.crc32(f'{tensor} {digest}'.encode()):08x}"
