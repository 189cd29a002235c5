# SPDX-License-Identifier: MIT
"""The use of a stored model by this process: as long as anybody here uses it, it is locked against deletion and its
files are open. Any thread.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from worker.errors import ModelGoneError
from worker.weights.locks import FileLock


class Use:
    """Counts its users; the lock and the files are theirs together."""

    def __init__(self, lock_path: Path, paths: Sequence[Path]) -> None:
        """`lock_path` is the model's file for that. Raises OSError: something is not there."""
        self._lock_path = lock_path
        self._paths = tuple(paths)
        self._lock = threading.Lock()
        self._n_users = 0
        self._held: FileLock | None = None
        self._fds: list[int] = []
        self._inodes = self._look()

    @property
    def fds(self) -> Sequence[int]:
        """Of the files, for as long as it is in use."""
        return self._fds

    def sizes(self) -> tuple[int, ...]:
        """Bytes of the files now.

        Raises:
            ModelGoneError: they are not there any more, or others are.
        """
        try:
            if self._look() == self._inodes:
                return tuple(path.stat().st_size for path in self._paths)
        except OSError:
            pass
        raise ModelGoneError("a model made room for another one in this worker's store; try again")

    def begin(self) -> None:
        """One user more.

        Raises:
            ModelGoneError: the model is not there any more, or another one of its name is.
            OSError: a file cannot be opened.
        """
        with self._lock:
            if self._n_users == 0:
                self._open()
            self._n_users += 1

    def touch(self) -> None:
        """Keeps that it is used now, while it is."""
        with self._lock:
            if self._held is not None:
                os.utime(self._held.fd)

    def end(self) -> None:
        """One user less."""
        with self._lock:
            self._n_users -= 1
            if self._n_users == 0:
                self._close()

    def _open(self) -> None:
        self._held = FileLock.take(self._lock_path, shared=True, wait=True, create=False)
        try:
            self.sizes()
            for path in self._paths:
                self._fds.append(os.open(path, os.O_RDWR))
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def _look(self) -> tuple[tuple[int, int], ...]:
        stats = [path.stat() for path in (self._lock_path, *self._paths)]
        return tuple((stat.st_dev, stat.st_ino) for stat in stats)
