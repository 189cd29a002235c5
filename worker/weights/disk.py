# SPDX-License-Identifier: MIT
"""What a disk has free, what of it is taken, and how it says that it is full. Any thread."""

import ctypes
import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

if sys.platform == "darwin":
    import fcntl

# A file system's limit for one file counts too: a FAT holds none of 4 GiB.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Source: stat(2); it is no file system's block size.
_BLOCK_BYTES = 512
# Of sync_file_range: wait for what is on its way, start the rest, wait for that. Source: sync_file_range(2).
_SYNC_ALL = 7
# What it says of bytes that are lost; all else means that it cannot help here.
_LOST = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT})
# What a disk writes in a tenth of a second: a thread that waits for it cannot be ended.
_SLICE_BYTES = 32 << 20
# Of fallocate: FALLOC_FL_PUNCH_HOLE and FALLOC_FL_KEEP_SIZE. Source: fallocate(2).
_PUNCH_HOLE = 3
# Of a file system's own, beside what a file holds.
_SLACK_BYTES = 1 << 20


def is_full(error: OSError) -> bool:
    """Whether that is what the system said."""
    return error.errno in _FULL


def free_bytes(folder: Path) -> int:
    """What this user may still write there."""
    return shutil.disk_usage(folder).free


def total_bytes(folder: Path) -> int:
    """Of the whole disk."""
    return shutil.disk_usage(folder).total


def taken_bytes(path: Path) -> int:
    """What a file, or all that lies below a folder, takes on the disk: holes in a file do not."""
    try:
        about = path.lstat()
        n_bytes = about.st_blocks * _BLOCK_BYTES
        if stat.S_ISDIR(about.st_mode):
            with os.scandir(path) as entries:
                n_bytes += sum(taken_bytes(Path(entry.path)) for entry in entries)
    except FileNotFoundError:
        # It goes while we look.
        return 0
    return n_bytes


def lengthen(path: Path, n_bytes: int) -> bool:
    """Makes a file longer by a hole; False: its file system has none, and the whole length is taken.

    Raises:
        OSError: it cannot be that long.
    """
    before = path.stat()
    os.truncate(path, n_bytes)
    grown_bytes = (path.stat().st_blocks - before.st_blocks) * _BLOCK_BYTES
    return grown_bytes <= (n_bytes - before.st_size) // 2 + _SLACK_BYTES


def sync_range(fd: int, offset: int, n_bytes: int, go_on: Callable[[], bool]) -> bool:
    """Brings a range of a file nearer to the disk, so that `sync` is quick; False: it was told not to go on.

    Raises:
        OSError: bytes were lost on the way.
    """
    end = offset + n_bytes
    while offset < end and _sync_file_range is not None:
        if not go_on():
            return False
        failed = _sync_file_range(fd, offset, min(end - offset, _SLICE_BYTES), _SYNC_ALL)
        if failed and (number := ctypes.get_errno()) in _LOST:
            raise OSError(number, os.strerror(number))
        offset += _SLICE_BYTES
    return True


def punch(fd: int, offset: int, n_bytes: int) -> None:
    """Makes a hole of a range of a file, where the system can; what it holds is worth nothing then, either way."""
    if _fallocate is not None:
        _fallocate(fd, _PUNCH_HOLE, offset, n_bytes)


def sync(fd: int) -> None:
    """Brings a file's bytes to the disk; blocks for as long as it takes. Raises OSError: they do not get there."""
    if sys.platform == "darwin":
        # There fsync ends at the disk's own memory. Source: fsync(2) of macOS.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def sync_path(path: Path) -> None:
    """The same for a small file or a folder's entries. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _linux_call(name: str, *types: "type[ctypes._SimpleCData[int]]") -> "ctypes._NamedFuncPointer | None":
    """None where there is no such call."""
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:
        function.argtypes = types
    return function


_sync_file_range = _linux_call("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
# fallocate's own offsets have 32 bits where the system's have.
_fallocate = _linux_call("fallocate64", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
