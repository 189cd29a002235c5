# SPDX-License-Identifier: MIT
"""Locks on files, among all threads and processes of a machine. The system lets go of one whose holder dies.

The only place that knows how the system does that: flock, which Linux, macOS and the BSDs have. Windows has no lock
that leaves a file readable and deletable; there nothing is kept, and what needs a lock is an OSError.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

if sys.platform != "win32":
    import fcntl

_MODE = 0o666


class FileLock:
    """A lock that is held, with its open file; a context manager that lets go."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def take(cls, path: Path, *, shared: bool = False, wait: bool = False, create: bool = True) -> "FileLock | None":
        """None: somebody else has it, or, without `create`, there is no such file.

        Raises:
            OSError: the file cannot be opened, or its file system has no locks.
        """
        while True:
            try:
                fd = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), _MODE)
            except FileNotFoundError:
                if create:
                    raise
                return None
            try:
                _lock(fd, shared=shared, wait=wait)
                if _is_at(fd, path):
                    return cls(path, fd)
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            # Whoever had it removed the file meanwhile.
            os.close(fd)

    def try_alone(self) -> bool:
        """Makes a shared lock an exclusive one, if nobody else shares it. Meanwhile it may be nobody's: only for those
        whom another lock keeps apart. Raises OSError."""
        try:
            _lock(self.fd, shared=False, wait=False)
        except BlockingIOError:
            self.share()
            return False
        return True

    def share(self) -> None:
        """Makes an exclusive lock a shared one. Raises OSError."""
        _lock(self.fd, shared=True, wait=True)

    def release(self) -> None:
        """Lets go; safe to repeat."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@contextlib.contextmanager
def locked(fd: int) -> Iterator[None]:
    """Has an open file to itself, waiting for it; among threads that share the `fd` it is no lock. Raises OSError."""
    _lock(fd, shared=False, wait=True)
    try:
        yield
    finally:
        _unlock(fd)


def _lock(fd: int, *, shared: bool, wait: bool) -> None:
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "weights are kept on Linux and macOS only")
    fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def _unlock(fd: int) -> None:
    if sys.platform != "win32":
        fcntl.flock(fd, fcntl.LOCK_UN)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
