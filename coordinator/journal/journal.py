# SPDX-License-Identifier: MIT
"""Writes the journal, on a thread of its own: who generates never waits for a disk. Tokens are looked up where they lie
already, in the streams of their requests, some fifty times a second; so what could not be written (a full disk) is
written later, and nothing is kept twice.

A file that has grown is written anew with what is still wanted, beside it, and then takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from coordinator.errors import ClosedError
from coordinator.generation import FinishReason, Token, TokenStream
from coordinator.journal.entries import (
    End,
    StoredAnswer,
    begin_record,
    end_record,
    gone_record,
    model_record,
    tokens_record,
)
from coordinator.journal.records import MAGIC, packed

_LOG = logging.getLogger(__name__)

_EVERY_S = 0.02
"""Between looks at streams that run."""

_SYNC_S = 1.0

_RETRY_S = 2.0
"""After a write that failed."""

LARGE_BYTES = 32 << 20
"""A file of so much is written anew, unless more than half of it is wanted still."""


class Sync(str, Enum):
    """When what was written is made to reach the disk itself: it survives a crash of the process at once, one of the
    machine only from then on."""

    ALWAYS = "always"
    SECOND = "second"
    NEVER = "never"


@dataclass(slots=True, eq=False)
class Entry:
    """An answer that is being written down.

    Attributes:
        streams: Of its parts.
        n_written: Tokens of each part that the file has; None: its end, too.
        written: Set on the event loop when the file has the answer's beginning.
    """

    answer: StoredAnswer
    streams: Sequence[TokenStream]
    n_written: list[int | None] = field(default_factory=list)
    is_begun: bool = False
    written: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.n_written = [0] * len(self.streams)


class Journal:
    """A file that this process alone writes. All methods but those of the thread are for the event loop.

    Args:
        path: Of the file, which `begin` writes anew.
        warn: Told on the thread, in a sentence, when it cannot be written; and when it can be again.
        large_bytes: See LARGE_BYTES.
    """

    def __init__(
        self,
        path: Path,
        identity: str,
        salt: bytes,
        *,
        sync: Sync = Sync.SECOND,
        warn: Callable[[str], None] = _LOG.warning,
        large_bytes: int = LARGE_BYTES,
    ) -> None:
        self._path = path
        self._first = MAGIC + packed(model_record(identity, salt))
        self.salt = salt
        self._sync = sync
        self._warn = warn
        self._large_bytes = large_bytes
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_closing = False
        self._entries: dict[str, Entry] = {}
        self._gone: list[str] = []
        self._loop = asyncio.get_running_loop()
        # The thread's own.
        self._file: int | None = None
        self._size = 0
        self._size_anew = 0
        self._is_dirty = False
        self._synced_s = time.monotonic()
        self._failed_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def start(self, entries: Sequence[Entry]) -> None:
        """Writes from now on; these are of the coordinator before."""
        self._entries = {entry.answer.id: entry for entry in entries}
        self._thread.start()
        self._wake.set()

    async def add(self, entry: Entry) -> None:
        """An answer that begins; returns when its beginning is in the file, or cannot be for now."""
        with self._lock:
            self._entries[entry.answer.id] = entry
        self._wake.set()
        await entry.written.wait()

    def forget(self, answer: str) -> None:
        """Nobody wants it any more."""
        with self._lock:
            if self._entries.pop(answer, None) is not None:
                self._gone.append(answer)
        self._wake.set()

    def close(self) -> None:
        """Writes what there is, and ends the thread."""
        self._is_closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    # ---- on the thread ----

    def _run(self) -> None:
        is_busy = True
        while not self._is_closing:
            is_busy = self._round()
            self._wake.wait(self._pause_s(is_busy))
            self._wake.clear()
        self._round(is_last=True)
        if self._file is not None:
            os.close(self._file)

    def _pause_s(self, is_busy: bool) -> float | None:
        if self._failed_s is not None:
            return _RETRY_S
        if is_busy:
            return _EVERY_S
        return _SYNC_S if self._is_dirty and self._sync is Sync.SECOND else None

    def _round(self, *, is_last: bool = False) -> bool:
        """Writes what is new; whether more is to come of what runs."""
        with self._lock:
            entries, gone, self._gone = list(self._entries.values()), self._gone, []
        try:
            if self._file is None or self._size > max(self._large_bytes, 2 * self._size_anew):
                is_busy = self._write_anew(entries)
            else:
                text, commit, is_busy = _news(entries, is_whole=False)
                self._append(b"".join(packed(gone_record(answer)) for answer in gone) + text)
                commit()
            self._sync_if_due(is_last=is_last)
            if self._failed_s is not None:
                self._failed_s = None
                self._warn(f"the journal {self._path} is written again")
        except Exception as error:
            if not isinstance(error, OSError):  # a fault of ours, and nobody may wait for the journal because of it
                _LOG.exception("the journal could not be written")
            is_busy = True
            self._note_failure(error, gone)
        for entry in entries:
            if not entry.written.is_set():
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(entry.written.set)
        return is_busy

    def _append(self, text: bytes) -> None:
        assert self._file is not None
        if text:
            _write(self._file, text)
            self._size += len(text)
            self._is_dirty = True

    def _sync_if_due(self, *, is_last: bool) -> None:
        if not self._is_dirty or self._sync is Sync.NEVER or self._file is None:
            return
        now_s = time.monotonic()
        if is_last or self._sync is Sync.ALWAYS or now_s - self._synced_s >= _SYNC_S:
            os.fsync(self._file)
            self._is_dirty, self._synced_s = False, now_s

    def _write_anew(self, entries: Sequence[Entry]) -> bool:
        text, commit, is_busy = _news(entries, is_whole=True)
        draft = self._path.with_name(f"{self._path.name}.new")
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            _write(file, self._first + text)
            os.fsync(file)
            draft.replace(self._path)
        except BaseException:
            os.close(file)
            draft.unlink(missing_ok=True)
            raise
        if self._file is not None:
            os.close(self._file)
        self._file, self._size = file, len(self._first) + len(text)
        self._size_anew = self._size
        commit()
        return is_busy

    def _note_failure(self, error: Exception, gone: list[str]) -> None:
        """What was written half is taken back, so that the next try begins at a record's end."""
        if self._failed_s is None:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            self._warn(
                f"the journal {self._path} cannot be written ({reason}): requests are served all the "
                "same, and would be lost with this process; make room, and it is written again"
            )
        self._failed_s = time.monotonic()
        with self._lock:
            self._gone = gone + self._gone
        if self._file is not None:
            try:
                os.ftruncate(self._file, self._size)
            except OSError:
                os.close(self._file)
                self._file = None


def new_salt() -> bytes:
    """For hashes that only this journal has."""
    return secrets.token_bytes(16)


def _write(file: int, text: bytes) -> None:
    view = memoryview(text)
    while view:
        view = view[os.write(file, view) :]


def _news(entries: Sequence[Entry], *, is_whole: bool) -> tuple[bytes, Callable[[], None], bool]:
    """What the file lacks (or all of it), what to do when it has that, and whether more is to come."""
    records, after = [], []
    runs: dict[float, list[tuple[str, int, int, Sequence[Token]]]] = {}
    is_busy = False
    now = time.time()
    for entry in entries:
        if is_whole or not entry.is_begun:
            records.append(begin_record(entry.answer))
        n_written: list[int | None] = []
        ends = []
        for number, stream in enumerate(entry.streams):
            before = 0 if is_whole else entry.n_written[number]
            if before is None:
                n_written.append(None)
                continue
            ended = stream.ended  # before looking at the tokens: none is added after it was set
            tokens = stream.tokens[before:]
            if tokens:
                had_ended = entry.answer.parts[number].end is not None  # with the coordinator before
                at = entry.answer.at if had_ended else now
                runs.setdefault(at, []).append((entry.answer.id, number, before, tokens))
            is_busy = is_busy or not ended
            n_written.append(None if ended else before + len(tokens))
            end = _end_of(entry, number, now) if ended else None
            if end is not None:
                ends.append(end_record(entry.answer.id, number, end))
        after.append((entry, n_written, ends))
    records += [tokens_record(at, each) for at, each in runs.items()]
    records += [end for _, _, ends in after for end in ends]

    def commit() -> None:
        for entry, n_written, _ in after:
            entry.is_begun, entry.n_written = True, n_written

    return b"".join(map(packed, records)), commit, is_busy


def _end_of(entry: Entry, number: int, now: float) -> End | None:
    """None: it ended because we do, and is to go on some time."""
    stream = entry.streams[number]
    if stream.usage is None or isinstance(stream.error, ClosedError) or stream.finish_reason is FinishReason.CANCELLED:
        return None
    before = entry.answer.parts[number].end
    at = now if before is None else before.at
    return End(at, stream.usage, stream.finish_reason, stream.error)
