# SPDX-License-Identifier: MIT
"""A journal's file before it is written: one process at a time has it, and what is in it is read."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from coordinator.journal.entries import Stored, stored
from coordinator.journal.records import read_records

if sys.platform != "win32":
    import fcntl


class JournalError(Exception):
    """The file cannot be used; a sentence with what to do."""


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """While this lasts the file is this process's, and its folder is there. A process that dies claims nothing.

    Raises:
        JournalError: Another process has it, or it cannot be made.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise JournalError(
            f"the journal {path} cannot be made ({error.strerror or error}): name another with --journal"
        ) from None
    try:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise JournalError(
                    f"another caravan serve writes the journal {path}: give this one its own with --journal"
                ) from None
        yield
    finally:
        os.close(file)


def read_journal(path: Path, identity: str, tell: Callable[[str], None]) -> Stored:
    """What the file has of this model; a file with anything else in it is kept beside it, and that is told.

    Raises:
        JournalError: It cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Stored(identity)
    except OSError as error:
        raise JournalError(
            f"the journal {path} cannot be read ({error.strerror or error}): mend its rights, or name another"
        ) from None
    read = read_records(content)
    try:
        found = stored(read.records)
        damaged = None if read.damaged_at is None else f"at byte {read.damaged_at} of {len(content)}"
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        found, damaged = Stored(), f"({type(error).__name__} in a record)"
    if damaged is not None:
        kept = _kept_beside(path, "damaged")
        tell(
            f"the journal {path} is damaged {damaged}: {len(found.answers)} answers before that are used, what comes "
            f"after is not; it is kept as {kept}"
        )
    if found.identity and found.identity != identity:
        kept = _kept_beside(path, "other")
        tell(f"the journal {path} is of another model: its answers are not gone on with; it is kept as {kept}")
        return Stored(identity)
    return found


def _kept_beside(path: Path, ending: str) -> Path:
    """A second name of the file, which stays when another takes its place."""
    beside = path.with_name(f"{path.name}.{ending}")
    with contextlib.suppress(OSError):
        beside.unlink(missing_ok=True)
        os.link(path, beside)
    return beside
