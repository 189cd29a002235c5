# SPDX-License-Identifier: MIT
"""The use of a stored model by this process: as long as anybody here uses it, it is locked against deletion and its
files are open. Any thread.
"""

import contextlib
import os
import threading
from collections.abc import Collection, Iterator, Sequence
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
        # What each of its users needs; None: all of it.
        self._users: list[Collection[int] | None] = []
        self._held: FileLock | None = None
        self._fds: list[int] = []
        self._inodes = self._look()

    @property
    def fds(self) -> Sequence[int]:
        """Of the files, for as long as it is in use."""
        return self._fds

    @property
    def is_used(self) -> bool:
        """Whether anybody here uses it."""
        return bool(self._users)

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

    def begin(self, needed: Collection[int] | None) -> None:
        """One user more, who needs these tensors, or all.

        Raises:
            ModelGoneError: the model is not there any more, or another one of its name is.
            OSError: a file cannot be opened.
        """
        with self._lock:
            if not self._users:
                self._open()
            self._users.append(needed)

    def touch(self) -> None:
        """Keeps that it is used now, while it is."""
        with self._lock:
            if self._held is not None:
                os.utime(self._held.fd)

    def end(self, needed: Collection[int] | None) -> None:
        """One user less, who needed that."""
        with self._lock:
            self._users.remove(needed)
            if not self._users:
                self._close()

    @contextlib.contextmanager
    def alone(self) -> Iterator[frozenset[int] | None]:
        """Gives what is needed of it, while no other process can begin to use it; None: all, or others use it too.
        Only for who has the store to itself (`try_alone`)."""
        with self._lock:
            needed: set[int] = set()
            for tensors in self._users:
                if tensors is None:
                    yield None
                    return
                needed |= set(tensors)
            if self._held is None or not self._held.try_alone():
                yield None
                return
            try:
                yield frozenset(needed)
            finally:
                self._held.share()

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
