# SPDX-License-Identifier: MIT
"""The crash-safe index of a model in the store: which tensors are here, verified against which hash.

A log of fixed records, each with a checksum of its own, in slots that are never used twice. It says what holds at any
moment, without waiting for a disk:

- HELD: the tensor's bytes are written and their hash is right. That outlives this process, however it ends, since the
  bytes are the system's by then. It does not outlive the machine, so the record names the start of the machine
  (protos/boot.py) in which it was made.
- SYNCED: all that was written before that slot has reached the disk, so the HELD records before it hold for good.
- DROPPED: the tensor's bytes turned out to be wrong. Its HELD records are overwritten first, so that losing this one
  does not bring it back.

A HELD record of an earlier start without a SYNCED one behind it is `unsure`: its bytes may be there, and their hash
tells. Whatever is no record (a torn one, garbage, another model's, a tensor that the model has not) is passed over.

Shared by all processes of a machine: each adds under a lock on the file, and reads what others added. Any thread.
"""

import os
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from blake3 import blake3

from worker.weights.locks import locked

# Kind, tensor, position (of SYNCED), start of the machine, hash.
_BODY = struct.Struct("<B3xIQ8s32s")
_CHECKSUM_BYTES = 8
RECORD_BYTES = _BODY.size + _CHECKSUM_BYTES
_TAG_BYTES = 8
_NO_HASH = bytes(32)
# Told apart from a log of another form.
_FORM = b"caravan index 1 "


class _Kind(IntEnum):
    HELD = 1
    SYNCED = 2
    DROPPED = 3


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor's last HELD record; `slots` of all of them."""

    hash: bytes
    tag: bytes
    slots: tuple[int, ...]


class Index:
    """One model's log, open."""

    def __init__(self, path: Path, identity: str, n_tensors: int, boot: str) -> None:
        """Opens it, or begins a new one.

        Args:
            boot: which start of the machine this is; empty: nobody knows, so that HELD records hold for this process.

        Raises:
            OSError: it cannot be opened.
        """
        self._key = _FORM + identity.encode()
        self._n_tensors = n_tensors
        self._tag = blake3(boot.encode()).digest(_TAG_BYTES) if boot else os.urandom(_TAG_BYTES)
        self._lock = threading.RLock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._forget()
        self.refresh()

    def refresh(self) -> None:
        """Reads what others added."""
        with self._lock:
            size = os.fstat(self._fd).st_size
            if size < self._n_slots * RECORD_BYTES:
                # Cut off by somebody else.
                self._forget()
            start = self._n_slots * RECORD_BYTES
            if size - start < RECORD_BYTES:
                return
            data = os.pread(self._fd, size - start, start)
            for at in range(0, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
                self._apply(data[at : at + RECORD_BYTES])

    def held(self) -> frozenset[int]:
        """Tensors whose bytes are here and right."""
        with self._lock:
            return frozenset(tensor for tensor, entry in self._entries.items() if self._holds(entry))

    def is_held(self, tensor: int) -> bool:
        """Whether `held` has it."""
        with self._lock:
            entry = self._entries.get(tensor)
            return entry is not None and self._holds(entry)

    def unsure(self) -> frozenset[int]:
        """Tensors that were here when the machine went down, and may be still."""
        with self._lock:
            return frozenset(tensor for tensor, entry in self._entries.items() if not self._holds(entry))

    def hash_of(self, tensor: int) -> bytes | None:
        """What its bytes were verified against, whether it is held or unsure; None: it is neither."""
        with self._lock:
            entry = self._entries.get(tensor)
            return None if entry is None else entry.hash

    def not_synced(self) -> frozenset[int]:
        """Tensors, held or unsure, that a power cut may take."""
        with self._lock:
            return frozenset(tensor for tensor, entry in self._entries.items() if entry.slots[-1] >= self._synced)

    def add(self, tensor: int, hash: bytes) -> None:
        """Says that it is held, from now on.

        Raises:
            OSError: that cannot be written, and is as if it had not been said.
        """
        with self._appending():
            self._append(_Kind.HELD, tensor, 0, hash)

    def version(self, tensor: int) -> int | None:
        """Another one each time that the tensor is added; None: it is neither held nor unsure."""
        with self._lock:
            entry = self._entries.get(tensor)
            return None if entry is None else entry.slots[-1]

    def drop(self, versions: Mapping[int, int | None]) -> None:
        """Forgets those versions of tensors for good before returning, whatever their bytes are from now on; not later
        ones.

        Raises:
            OSError: that cannot be written.
        """
        with self._appending():
            dropped = []
            for tensor, version in versions.items():
                entry = self._entries.get(tensor)
                if entry is not None and entry.slots[-1] == version:
                    dropped.append(tensor)
                    del self._entries[tensor]
                    for slot in entry.slots:
                        os.pwrite(self._fd, bytes(RECORD_BYTES), slot * RECORD_BYTES)
            if dropped:
                os.fsync(self._fd)
            for tensor in dropped:
                # For those who have read it already.
                self._append(_Kind.DROPPED, tensor, 0, _NO_HASH)

    def position(self) -> int:
        """What `synced` is to be told after the data has reached the disk."""
        with self._lock:
            self.refresh()
            return self._n_slots

    def synced(self, position: int) -> None:
        """All data that was written before `position` was asked for has reached the disk; waits for the log to.

        Raises:
            OSError: the log cannot be written, or does not reach it.
        """
        with self._appending():
            if position > self._synced:
                self._append(_Kind.SYNCED, 0, position, _NO_HASH)
        os.fsync(self._fd)

    def close(self) -> None:
        """Safe to repeat."""
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    def _holds(self, entry: _Entry) -> bool:
        return entry.tag == self._tag or entry.slots[-1] < self._synced

    def _forget(self) -> None:
        self._n_slots = 0
        self._synced = 0
        self._entries: dict[int, _Entry] = {}

    @contextmanager
    def _appending(self) -> Iterator[None]:
        with self._lock, locked(self._fd):
            self.refresh()
            yield

    def _append(self, kind: _Kind, tensor: int, position: int, hash: bytes) -> None:
        """Behind a torn record, if the log ends with one."""
        body = _BODY.pack(kind, tensor, position, self._tag, hash)
        slot = -(-os.fstat(self._fd).st_size // RECORD_BYTES)
        record = body + self._checksum(body)
        n_written = os.pwrite(self._fd, record, slot * RECORD_BYTES)
        if n_written < len(record):
            os.pwrite(self._fd, record[n_written:], slot * RECORD_BYTES + n_written)
        self.refresh()

    def _apply(self, record: bytes) -> None:
        slot, self._n_slots = self._n_slots, self._n_slots + 1
        body, checksum = record[: _BODY.size], record[_BODY.size :]
        if self._checksum(body) != checksum:
            return
        kind, tensor, position, tag, hash = _BODY.unpack(body)
        if kind == _Kind.SYNCED and position <= slot:
            self._synced = max(self._synced, position)
        elif kind == _Kind.DROPPED:
            self._entries.pop(tensor, None)
        elif kind == _Kind.HELD and tensor < self._n_tensors:
            before = self._entries.get(tensor)
            self._entries[tensor] = _Entry(hash, tag, (*(before.slots if before else ()), slot))

    def _checksum(self, body: bytes) -> bytes:
        return blake3(self._key + body).digest(_CHECKSUM_BYTES)
