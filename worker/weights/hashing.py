# SPDX-License-Identifier: MIT
"""A tensor's hash: BLAKE3 over its bytes. Any thread; the interpreter is free meanwhile."""

import os

from blake3 import blake3

# Large enough that the calls cost nothing, small enough to stay in a processor's cache.
_CHUNK_BYTES = 1 << 20


class ShortFileError(Exception):
    """A file ends before the bytes that were to be hashed."""


def hash_range(fd: int, offset: int, n_bytes: int) -> bytes:
    """Of the file's bytes [offset, offset + n_bytes).

    Raises:
        ShortFileError: the file ends before.
        OSError: it cannot be read.
    """
    hasher = blake3()
    update_from(hasher, fd, offset, n_bytes)
    return hasher.digest()


def update_from(hasher: blake3, fd: int, offset: int, n_bytes: int) -> None:
    """Adds a file's bytes to `hasher`.

    Raises:
        As `hash_range`; then the hasher is worth nothing.
    """
    view = memoryview(bytearray(min(_CHUNK_BYTES, n_bytes)))
    end = offset + n_bytes
    while offset < end:
        n_read = os.preadv(fd, [view[: end - offset]], offset)
        if n_read == 0:
            raise ShortFileError(f"the file ends at byte {offset}")
        hasher.update(view[:n_read])
        offset += n_read
