# SPDX-License-Identifier: MIT
"""What a disk has free, what of it is taken, and how it says that it is full. Any thread."""

import errno
import fcntl
import os
import shutil
import stat
import sys
from pathlib import Path

# A file system's limit for one file counts too: a FAT holds none of 4 GiB.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Source: stat(2); it is no file system's block size.
_BLOCK_BYTES = 512
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
