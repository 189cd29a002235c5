# SPDX-License-Identifier: MIT
"""One tensor on its way into the store: its pieces in any order, from several threads at once, hashed as they come."""

import contextlib
import logging
import threading
from collections.abc import Callable
from types import TracebackType

from blake3 import blake3

from worker.errors import WrongBytesError
from worker.weights.claim import NO_STAMP, Claim
from worker.weights.hashing import ShortFileError, update_from
from worker.weights.piece import Piece
from worker.weights.ranges import Ranges

_LOG = logging.getLogger(__name__)


class TensorWriter:
    """Made by StoredModel.begin; a context manager that lets go of the tensor. What was written stays for the next."""

    def __init__(
        self,
        *,
        name: str,
        piece: Piece,
        claim: Claim,
        write_all: Callable[[int, memoryview, int], None],
        on_finished: Callable[[bytes], None],
        on_closed: Callable[[], None],
    ) -> None:
        """Borrows the claim and what else it is given, until `on_closed`.

        Args:
            piece: where the tensor lies, in an open file.
            write_all: puts bytes at an offset of that file.
            on_finished: is given the hash of a tensor that is right.
        """
        self.name = name
        self.n_bytes = piece.n_bytes
        # Whether some of it was here from a fetch that broke off.
        self.was_resumed = claim.ranges.n_bytes > 0
        self._fd = piece.fd
        self._offset_bytes = piece.offset_bytes
        self._claim = claim
        self._write_all = write_all
        self._on_finished = on_finished
        self._on_closed = on_closed
        self._state = threading.Lock()
        self._in_flight = Ranges()
        self._is_closed = False
        self._hashing = threading.Lock()
        self._hasher = blake3()
        self._hashed_bytes = 0

    def missing(self) -> list[tuple[int, int]]:
        """Ranges [start, end) that are not written yet, ascending."""
        with self._state:
            return self._claim.ranges.missing(self.n_bytes)

    def is_only_of(self, stamp: bytes) -> bool:
        """Whether the model's own server gave all that is written, as that stamp names it."""
        with self._state:
            return self._claim.stamps <= {stamp}

    def forget(self) -> None:
        """None of it is written any more. Raises OSError."""
        with self._state:
            self._claim.clear()

    def write(self, offset: int, view: memoryview, stamp: bytes = NO_STAMP) -> bool:
        """Writes a piece; False: some of it is here already, or is being written, so that none of it was taken.

        Args:
            stamp: of what the model's own server gave.

        Raises:
            ValueError: it lies outside of the tensor.
            DiskFullError, StoreUnusableError: it cannot be written.
        """
        view = view.cast("B")
        end = offset + len(view)
        if not 0 <= offset <= end <= self.n_bytes:
            raise ValueError(f"[{offset}, {end}) is not in {self.name}, which has {self.n_bytes} bytes")
        with self._state:
            if self._claim.ranges.overlaps(offset, end) or self._in_flight.overlaps(offset, end):
                return False
            self._in_flight.add(offset, end)
        try:
            self._write_all(self._fd, view, self._offset_bytes + offset)
            with self._state:
                self._note(offset, end, stamp)
        finally:
            with self._state:
                self._in_flight.remove(offset, end)
        self._hash_along(offset, view)
        return True

    def finish(self, hash: bytes | None) -> None:
        """All of it is written and it has this hash, so that it is held from now on; None: it is right as it is.

        Raises:
            ValueError: some of it is missing.
            WrongBytesError: it has another hash. None of it is written then, and it may be written anew.
            DiskFullError, StoreUnusableError: it cannot be noted.
        """
        if self.missing():
            raise ValueError(f"{self.name} is not complete")
        with self._hashing:
            is_read = self._hash_until(self.n_bytes)
            digest = self._hasher.digest()
            self._hasher, self._hashed_bytes = blake3(), 0
        with self._state:
            if not is_read or (hash is not None and hash != digest):
                self._claim.clear()
                raise WrongBytesError(f"the bytes of {self.name} are not what their hash says")
            self._on_finished(digest)
            self._claim.finish()

    def close(self) -> None:
        """Lets go of the tensor; safe to repeat. No other method may be under way."""
        with self._state:
            if self._is_closed:
                return
            self._is_closed = True
        self._on_closed()

    def __enter__(self) -> "TensorWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note(self, start: int, end: int, stamp: bytes) -> None:
        # If that cannot be kept, this writer knows it, and only the one after it fetches it again.
        with contextlib.suppress(OSError):
            self._claim.add(start, end, stamp)

    def _hash_along(self, offset: int, view: memoryview) -> None:
        """Hashes the piece while it is at hand, if it is the next, and what came before its turn. One thread at a time:
        the others' pieces are read back by it, or at the end."""
        if not self._hashing.acquire(blocking=False):
            return
        try:
            if offset == self._hashed_bytes:
                self._hasher.update(view)
                self._hashed_bytes += len(view)
            with self._state:
                end = self._claim.ranges.end_from(self._hashed_bytes)
            self._hash_until(end)
        finally:
            self._hashing.release()

    def _hash_until(self, end: int) -> bool:
        """False: the bytes cannot be read, and hashing starts over."""
        n_bytes = end - self._hashed_bytes
        if n_bytes <= 0:
            return True
        try:
            update_from(self._hasher, self._fd, self._offset_bytes + self._hashed_bytes, n_bytes)
        except (OSError, ShortFileError) as error:
            _LOG.warning("what was written of %s cannot be read back: %s", self.name, error)
            self._hasher, self._hashed_bytes = blake3(), 0
            return False
        self._hashed_bytes = end
        return True
