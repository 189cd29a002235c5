# SPDX-License-Identifier: MIT
"""Reading a file on a server, on one thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from coordinator.weights.cancellation import Cancellation
from coordinator.weights.http_file import PASSING, HttpFile, woken
from coordinator.weights.patience import Patience
from protos.http_ranges import PassingError

_TRIES = 6
"""In a row without a byte; with the waits between them about 15 seconds."""


class HttpStream:
    """Reads a file's ranges on one thread; goes on where it ended without asking again, also after an error."""

    def __init__(self, file: HttpFile, cancellation: Cancellation) -> None:
        self._file = file
        self._cancellation = cancellation
        self._open = contextlib.ExitStack()
        self._chunks: Iterator[bytes] = iter(())
        self._left = memoryview(b"")
        self._position = self._end = -1

    def read_into(self, offset: int, view: memoryview, *, until: int) -> None:
        """Fills `view` with the bytes from `offset` on; the server is asked for those before `until`.

        Raises:
            SourceError: It does not give them, or others.
            CancelledError: It was called off.
        """
        patience = Patience(self._file.shown, self._file.failed, self._cancellation, _TRIES)
        end = offset + len(view)
        while offset < end:
            try:
                self._cancellation.check()
                if self._position != offset:
                    self._begin(range(offset, max(until, end)))
                n_bytes = self._take(view[offset - end :])
            except PASSING as error:
                self.close()
                patience.bear(error)
                continue
            patience.succeed()
            offset += n_bytes

    def close(self) -> None:
        """Gives the connection back."""
        self._open.close()
        self._left = memoryview(b"")
        self._position = self._end = -1

    def _begin(self, wanted: range) -> None:
        self.close()
        response = self._file.open(wanted)
        self._open.callback(response.close)
        self._open.enter_context(woken(response, self._cancellation))
        self._chunks = response.iter_raw()
        self._position, self._end = wanted.start, wanted.stop

    def _take(self, view: memoryview) -> int:
        """As many bytes as are there next; at least one."""
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise PassingError("the connection ended too early")
            self._left = memoryview(chunk)
        n_bytes = min(len(view), len(self._left))
        view[:n_bytes] = self._left[:n_bytes]
        self._left = self._left[n_bytes:]
        self._position += n_bytes
        if self._position >= self._end:
            # A connection is used again only if its answer was read to the end, which it is told to be hereby.
            next(self._chunks, None)
            self.close()
        return n_bytes
