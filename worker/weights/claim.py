# SPDX-License-Identifier: MIT
"""The right to write one tensor, which one thread of one process has at a time, and which of its bytes are written.

A file of its own per tensor that is being fetched, locked: the lock goes with its holder, the ranges stay for the next
one. They are a log of fixed records, each with a checksum, the start of the machine in which it was made, since what
was written before the machine went down may be lost, and the stamp of what was read (address.py), if it was the model's
own server. Nobody trusts a record without that: such a tensor is held when a hash says so that somebody else told.
"""

import os
import struct
from pathlib import Path

from blake3 import blake3

from worker.weights.locks import FileLock
from worker.weights.ranges import Ranges

# Start of the machine, stamp, range.
_BODY = struct.Struct("<8s8sQQ")
_CHECKSUM_BYTES = 8
_RECORD_BYTES = _BODY.size + _CHECKSUM_BYTES


# Of what anybody gave.
NO_STAMP = bytes(8)


class Claim:
    """A claim that is held. Its methods are for one thread at a time."""

    def __init__(self, lock: FileLock, tag: bytes, n_bytes: int) -> None:
        self._lock = lock
        self._tag = tag
        self.ranges = Ranges()
        # Of all that is written.
        self.stamps: set[bytes] = set()
        for stamp, start, end in _read(lock.fd, tag):
            if end <= n_bytes:
                self.ranges.add(start, end)
                self.stamps.add(stamp)

    @classmethod
    def take(cls, path: Path, boot: str, n_bytes: int) -> "Claim | None":
        """None: somebody else has it. `n_bytes` has the tensor.

        Raises:
            OSError: the file cannot be opened.
        """
        lock = FileLock.take(path)
        tag = blake3(boot.encode()).digest(8) if boot else os.urandom(8)
        return None if lock is None else cls(lock, tag, n_bytes)

    def add(self, start: int, end: int, stamp: bytes = NO_STAMP) -> None:
        """Those bytes are written; `stamp` is of what the model's own server gave.

        Raises:
            OSError: that cannot be kept; it is known here only.
        """
        self.ranges.add(start, end)
        self.stamps.add(stamp)
        body = _BODY.pack(self._tag, stamp, start, end)
        at = os.fstat(self._lock.fd).st_size // _RECORD_BYTES * _RECORD_BYTES
        os.pwrite(self._lock.fd, body + blake3(body).digest(_CHECKSUM_BYTES), at)

    def clear(self) -> None:
        """None are written: they were wrong. Raises OSError."""
        self.ranges, self.stamps = Ranges(), set()
        os.ftruncate(self._lock.fd, 0)

    def release(self) -> None:
        """Lets somebody else have it, with the ranges; safe to repeat."""
        self._lock.release()

    def finish(self) -> None:
        """The tensor is held, and nobody needs a claim any more."""
        self._lock.path.unlink(missing_ok=True)
        self._lock.release()


def _read(fd: int, tag: bytes) -> list[tuple[bytes, int, int]]:
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    ranges = []
    for at in range(0, len(data) - _RECORD_BYTES + 1, _RECORD_BYTES):
        body, checksum = data[at : at + _BODY.size], data[at + _BODY.size : at + _RECORD_BYTES]
        its_tag, stamp, start, end = _BODY.unpack(body)
        if its_tag == tag and blake3(body).digest(_CHECKSUM_BYTES) == checksum:
            ranges.append((stamp, start, end))
    return ranges
