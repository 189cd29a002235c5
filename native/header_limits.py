# SPDX-License-Identifier: MIT
"""What a GGUF header may cost, found out before ggml reads it: whatever it claims, and whatever it really has.

ggml's reader holds every length against the file's end, so a claim alone allocates nothing. But what a file really has,
it reads all of, at up to eight times its size (a string of a list takes 8 bytes of the file and twice 32 of memory) and
an element at a time. So lengths are added up here first, without reading what they span. This refuses what is too
much; what is cut off or makes no sense is ggml's to refuse. Called by native/header.py.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from native.errors import ModelFileError

# Of one file. The largest that we know of, with 262,000 tokens and 515,000 merges, has about 18 MiB.
MAX_HEADER_BYTES = 64 << 20
# Of all files of a model. llama.cpp takes 512 layers; the most that a layer of any architecture has is about 40.
MAX_TENSORS = 1 << 15
# The most that we know of has about 100.
_MAX_PAIRS = 1 << 14
# In all lists together: tokens and merges. The largest vocabulary that we know of has 777,000.
_MAX_STRINGS = 1 << 21
# The specification of GGUF has no longer ones.
_MAX_KEY_BYTES = (1 << 16) - 1

# Those that ggml reads; they differ in what a file may hold, not in how its header lies.
_VERSIONS = (2, 3)
_STRING_TYPE, _ARRAY_TYPE = 8, 9
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
# What is read at once: little where a header is small, since behind it lie weights that nobody asked for.
_FIRST_WINDOW_BYTES, _LAST_WINDOW_BYTES = 16 << 10, 1 << 20

_U32, _U64, _COUNTS = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<4sIQQ")


def check_header(path: Path) -> None:
    """Reads what lengths the header of `path` has, and no more.

    Raises:
        ModelFileError: no model's header has so much of something.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            _Walk(path, file).all()
        except _EndError:
            return


class _EndError(Exception):
    """What comes next is not in the file, or of a type that nobody knows."""


class _Walk:
    """One header, from its beginning to the end of its tensor table."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        # Some bytes of the file, where they begin, and how much of them is behind us.
        self._window = b""
        self._window_bytes = _FIRST_WINDOW_BYTES
        self._start = 0
        self._at = 0
        self._n_strings = 0

    def all(self) -> None:
        _, version, n_tensors, n_pairs = _COUNTS.unpack(self._take(_COUNTS.size))
        if version not in _VERSIONS:
            return
        self._check(n_tensors, MAX_TENSORS, "tensors")
        self._check(n_pairs, _MAX_PAIRS, "keys")
        for _ in range(n_pairs):
            self._pair()
        for _ in range(n_tensors):
            self._skip(self._u64())
            n_dims = self._u32()
            # A name, the sizes, then type and offset. ggml knows four sizes.
            self._skip(8 * n_dims + 4 + 8)

    def _pair(self) -> None:
        n_key_bytes = self._u64()
        self._check(n_key_bytes, _MAX_KEY_BYTES, "bytes of a key")
        self._skip(n_key_bytes)
        kind, count = self._u32(), 1
        if kind == _ARRAY_TYPE:
            kind, count = self._u32(), self._u64()
        if kind == _STRING_TYPE:
            self._skip_strings(count)
        elif kind in _SCALAR_BYTES:
            self._skip(count * _SCALAR_BYTES[kind])
        else:
            raise _EndError

    def _skip_strings(self, count: int) -> None:
        self._n_strings += count
        self._check(self._n_strings, _MAX_STRINGS, "texts")
        unpack = _U64.unpack_from
        while count:
            window, at = self._window, self._at
            try:
                # Some hundred thousand times for a large vocabulary, so there is no call in it.
                while count:
                    (n_bytes,) = unpack(window, at)
                    at += 8 + n_bytes
                    count -= 1
            except (struct.error, OverflowError):
                self._seek(at)
                self._fill(8)
            else:
                self._seek(at)

    def _u32(self) -> int:
        return int(_U32.unpack(self._take(4))[0])

    def _u64(self) -> int:
        return int(_U64.unpack(self._take(8))[0])

    def _take(self, n_bytes: int) -> bytes:
        self._fill(n_bytes)
        self._at += n_bytes
        return self._window[self._at - n_bytes : self._at]

    def _skip(self, n_bytes: int) -> None:
        self._seek(self._at + n_bytes)

    def _seek(self, at: int) -> None:
        """To a place in the window or behind it."""
        self._at = at
        self._check(self._start + at, MAX_HEADER_BYTES, "bytes")

    def _fill(self, n_bytes: int) -> None:
        """Sees to it that so much is in the window."""
        if self._at + n_bytes <= len(self._window):
            return
        self._start += self._at
        self._at = 0
        self._file.seek(self._start)
        self._window = self._file.read(max(self._window_bytes, n_bytes))
        self._window_bytes = min(2 * self._window_bytes, _LAST_WINDOW_BYTES)
        if len(self._window) < n_bytes:
            raise _EndError

    def _check(self, number: int, limit: int, what: str) -> None:
        if number > limit:
            raise ModelFileError(
                self._path,
                f"the GGUF header is damaged or cut off (it claims {number:,} {what}, and no model has more than"
                f" {limit:,}); download it again",
            )
