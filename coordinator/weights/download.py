# SPDX-License-Identifier: MIT
"""A whole file from a server that gives no ranges: downloaded once, into this user's cache; where it was broken off, it
is gone on with if the server can do that.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from coordinator.cache import key_of
from coordinator.errors import SourceError
from coordinator.weights.errand import Errand, FetchStep
from coordinator.weights.http_file import FileFacts, HttpFile
from coordinator.weights.patience import Patience
from protos.cache_folder import cache_folder
from protos.sizes import size

try:
    import fcntl
except ImportError:  # Windows, where nothing holds two downloads apart
    fcntl = None  # type: ignore[assignment]

_TELL_EVERY_S = 0.2
_TRIES = 3

_LEFT_TO_OTHERS_BYTES = 20 << 30
"""Of a disk, or a tenth of it: as workers' stores do."""


def download(file_name: str, file: HttpFile, errand: Errand) -> Path:
    """Where the file lies when this returns; blocks.

    Raises:
        SourceError: It cannot be fetched, or not be kept.
        CancelledError: It was called off; what came is kept.
    """
    facts = file.facts or file.ask(errand.cancellation)
    path = _folder(file.url) / file_name
    if _known(path) == _as_text(facts) and (facts.tag or facts.n_bytes):
        with contextlib.suppress(OSError):
            os.utime(path.parent)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            _download(path, file, facts, errand)
    except OSError as error:
        raise SourceError(
            f"{file.shown} cannot be kept in {path.parent}: {error.strerror or error}; make room there, or set "
            "CARAVAN_CACHE to a folder elsewhere"
        ) from None
    return path


def downloaded(file_name: str, url: str) -> Path | None:
    """Where the file lies that was downloaded from there some time before."""
    path = _folder(url) / file_name
    return path if _known(path) else None


def _download(path: Path, file: HttpFile, facts: FileFacts, errand: Errand) -> None:
    partial = path.with_name(path.name + ".partial")
    sentence = _sentence(file, facts, path)
    patience = Patience(file.shown, _as_it_is, errand.cancellation, _TRIES)
    while True:
        have = partial.stat().st_size if facts.tag and _known(partial) == _as_text(facts) else 0
        _check_room(path.parent, file, (facts.n_bytes or 0) - have)
        _note(partial, facts)
        errand.tell(FetchStep(sentence, have, facts.n_bytes))
        try:
            _fetch(partial, file, have, facts, sentence, errand)
            break
        except SourceError as error:
            patience.bear(error)
    _note(path, facts)
    partial.replace(path)
    _note_path(partial).unlink(missing_ok=True)


def _as_it_is(error: Exception) -> SourceError:
    assert isinstance(error, SourceError), "nothing else is borne"
    return error


def _fetch(partial: Path, file: HttpFile, have: int, facts: FileFacts, sentence: str, errand: Errand) -> None:
    pace = _Pace(errand.max_bytes_per_s, errand.cancellation.wait)
    told_s = 0.0
    with partial.open("r+b" if partial.exists() else "w+b") as out:
        for offset, chunk in file.whole(have, errand.cancellation):
            if out.tell() != offset:
                out.seek(offset)
                out.truncate()
            out.write(chunk)
            end = offset + len(chunk)
            if facts.n_bytes is not None and end > facts.n_bytes:
                raise SourceError(f"the server of {file.shown} sends more than the {facts.n_bytes} bytes it told of")
            pace.passed(len(chunk))
            if time.monotonic() > told_s + _TELL_EVERY_S:
                told_s = time.monotonic()
                errand.tell(FetchStep(sentence, end, facts.n_bytes))
        n_bytes = out.tell()
        out.truncate()
        out.flush()
        os.fsync(out.fileno())
    if facts.n_bytes is not None and n_bytes != facts.n_bytes:
        raise SourceError(
            f"{file.shown} ended after {n_bytes} of {facts.n_bytes} bytes: check the network, and try again",
            retry_safe=True,
        )


class _Pace:
    """Keeps a stream of bytes to a rate."""

    def __init__(self, max_bytes_per_s: int | None, wait: Callable[[float], None]) -> None:
        self._max_bytes_per_s = max_bytes_per_s
        self._wait = wait
        self._started_s = time.monotonic()
        self._n_bytes = 0

    def passed(self, n_bytes: int) -> None:
        """Waits where so many bytes more come too soon."""
        self._n_bytes += n_bytes
        if self._max_bytes_per_s:
            ahead_s = self._n_bytes / self._max_bytes_per_s - (time.monotonic() - self._started_s)
            if ahead_s > 0:
                self._wait(ahead_s)


def _check_room(folder: Path, file: HttpFile, n_bytes: int) -> None:
    _make_room(folder, n_bytes)
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise SourceError(
            f"the server of {file.shown} gives no parts of files, so all of it must be downloaded: {size(n_bytes)} to "
            f"{folder}, where {size(free)} are free; make room there, or set CARAVAN_CACHE to a folder elsewhere"
        )


def _make_room(folder: Path, n_bytes: int) -> None:
    """Deletes other downloads, the least recently used first, until so much fits beside what others are left of the
    disk, or there is none."""
    others = sorted((path for path in folder.parent.iterdir() if path != folder), key=lambda path: path.stat().st_mtime)
    for other in others:
        disk = shutil.disk_usage(folder)
        if disk.free - n_bytes >= min(disk.total // 10, _LEFT_TO_OTHERS_BYTES):
            return
        shutil.rmtree(other, ignore_errors=True)


def _sentence(file: HttpFile, facts: FileFacts, path: Path) -> str:
    much = "" if facts.n_bytes is None else f", {size(facts.n_bytes)},"
    return f"downloading all of {file.shown}{much} once, because its server gives no parts of it, to {path}"


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While this lasts, no other process downloads to that path."""
    with path.with_name(path.name + ".lock").open("wb") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SourceError(f"{path.name} is being downloaded by another process: wait for it") from None
        yield


def _folder(url: str) -> Path:
    return cache_folder() / "downloads" / key_of(url)


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _note(path: Path, facts: FileFacts) -> None:
    _note_path(path).write_text(_as_text(facts), encoding="utf-8")


def _known(path: Path) -> str:
    """What was noted of that file."""
    try:
        return _note_path(path).read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, ValueError):
        return ""


def _as_text(facts: FileFacts) -> str:
    return json.dumps([facts.n_bytes, facts.tag])
