# SPDX-License-Identifier: MIT
"""A model in files of this machine, or on a drive that it has."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.errors import SourceError
from coordinator.weights.cancellation import Cancellation
from coordinator.weights.references import part_names
from coordinator.weights.source import SourcePart, WeightReader, WeightSource
from native import read_layout
from protos.weights import file_stamp

_Facts = tuple[int, int, int, int, int]
"""Device, inode, size and both times of change of a file."""


@dataclass(frozen=True, slots=True)
class LocalSource(WeightSource):
    """`seen`: each part as it was when its header was read."""

    seen: Sequence[_Facts]

    @classmethod
    def open(cls, name: str, path: Path) -> LocalSource:
        """Reads the headers; blocks.

        Args:
            path: Of the first part.

        Raises:
            NativeError: As `read_layout`.
            SourceError: The file changes.
        """
        try:
            before = {part: _facts(part.stat()) for part in _expected_parts(path) if part.exists()}
            layout = read_layout(path)
            seen = [_facts(part.stat()) for part in layout.files]
            parts = [
                SourcePart(part.name, facts[2], n_header_bytes, file_stamp(part))
                for part, facts, n_header_bytes in zip(layout.files, seen, layout.header_bytes, strict=True)
            ]
        except OSError as error:
            raise _unreadable(Path(error.filename or path), error) from None
        for part, facts in zip(layout.files, seen, strict=True):
            if before.get(part) != facts:
                raise _changed(part)
        # Not the device: it may be called otherwise when the machine has started anew, and the path tells it.
        about = [(str(part.absolute()), *facts[1:]) for part, facts in zip(layout.files, seen, strict=True)]
        version = hashlib.sha256(repr(about).encode()).hexdigest()
        return cls(name, layout, parts, str(layout.path), version, seen)

    def reader(self, cancellation: Cancellation) -> WeightReader:
        return _LocalReader(self, cancellation)


class _LocalReader(WeightReader):
    def __init__(self, source: LocalSource, cancellation: Cancellation) -> None:
        self._source = source
        self._cancellation = cancellation
        self._files: dict[int, io.FileIO] = {}

    def descriptor(self, part: int) -> int:
        return self._file(part).fileno()

    def read_into(self, part: int, offset: int, view: memoryview, *, until: int) -> None:
        self._cancellation.check()
        file = self._file(part)
        try:
            file.seek(offset)
            while view:
                n_bytes = file.readinto(view)
                if not n_bytes:
                    raise _changed(self._path(part))
                view = view[n_bytes:]
        except OSError as error:
            raise _unreadable(self._path(part), error) from None

    def check(self, part: int) -> None:
        if _facts(os.fstat(self._file(part).fileno())) != self._source.seen[part]:
            raise _changed(self._path(part))

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _file(self, part: int) -> io.FileIO:
        file = self._files.get(part)
        if file is None:
            try:
                file = self._files[part] = io.FileIO(self._path(part), "r")
            except OSError as error:
                raise _unreadable(self._path(part), error) from None
            self.check(part)
        return file

    def _path(self, part: int) -> Path:
        return self._source.layout.files[part]


def _expected_parts(path: Path) -> list[Path]:
    return [path.with_name(name) for name in part_names(path.name)]


def _facts(about: os.stat_result) -> _Facts:
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _changed(path: Path) -> SourceError:
    return SourceError(f"{path} changed after it was opened: leave it as it is, and load it anew")


def _unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(f"{path} cannot be read: {error.strerror or error}")
