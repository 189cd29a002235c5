# SPDX-License-Identifier: MIT
"""Models that lie on this machine, or on a drive that it has, outside of the store: at the coordinator's path, or below
this worker's folders, whatever they are called. Any thread.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from native import ModelLayout, NativeError
from protos.weights import file_stamp
from worker.errors import ModelGoneError
from worker.weights.hashing import ShortFileError, hash_range
from worker.weights.index import Index
from worker.weights.parts import Part
from worker.weights.piece import Piece
from worker.weights.scan import Mark, Scan

_LOG = logging.getLogger(__name__)

_MEMORY_FOLDER = ".files"
_HEADERS_FILE = "headers.json"
# Of the logs that say what of a file is verified; each has some 100 KB.
_MAX_LOGS = 200
# A file that is as it was needs no start of the machine to be trusted.
_ANY_BOOT = "any"


class LocalFile:
    """A model's files, open to be read; close it, or use it as a context manager."""

    def __init__(self, layout: ModelLayout, memory: Path, *, is_original: bool) -> None:
        """What is verified is remembered in the folder `memory`.

        Args:
            is_original: it is the coordinator's very file, which needs no verifying.

        Raises:
            OSError: a file cannot be opened.
        """
        self.layout = layout
        self.is_original = is_original
        self._memory = memory
        self._index: Index | None = None
        self._fds: list[int] = []
        try:
            for path in layout.files:
                self._fds.append(os.open(path, os.O_RDONLY))
            self._marks = self._look()
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> str:
        """The model's."""
        return self.layout.identity

    def verified(self) -> frozenset[int]:
        """Tensors that need no verifying (any more), by their place in `layout.tensors`."""
        if self.is_original:
            return frozenset(range(len(self.layout.tensors)))
        index = self._open_index()
        return frozenset() if index is None else index.held()

    def verify(self, hashes: Mapping[int, bytes]) -> frozenset[int]:
        """Those of these tensors whose bytes have these hashes; each is read once, however often it is asked for.

        Raises:
            ModelGoneError: the file was changed while it was read.
        """
        if self.is_original:
            return frozenset(hashes)
        index = self._open_index()
        right = frozenset(tensor for tensor, hash in hashes.items() if self._is_right(index, tensor, hash))
        self.check_unchanged()
        return right

    def piece(self, tensor: int) -> Piece:
        """Where a tensor lies; the file stays open until this is closed."""
        about = self.layout.tensors[tensor]
        return Piece(self._fds[about.file_index], about.offset_bytes, about.n_bytes)

    def check_unchanged(self) -> None:
        """Raises ModelGoneError: the files are not what they were when this was made."""
        with contextlib.suppress(OSError):
            if self._look() == self._marks:
                return
        raise ModelGoneError(f"{self.layout.path} was changed while it was being read; try again")

    def close(self) -> None:
        """Safe to repeat."""
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)
        if self._index is not None:
            self._index.close()

    def __enter__(self) -> "LocalFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _look(self) -> tuple[Mark, ...]:
        return tuple(map(Mark.of, self.layout.files))

    def _is_right(self, index: Index | None, tensor: int, hash: bytes) -> bool:
        if index is not None and index.hash_of(tensor) == hash:
            return True
        where = self.piece(tensor)
        try:
            is_right = hash_range(where.fd, where.offset_bytes, where.n_bytes) == hash
            if is_right and index is not None and self._look() == self._marks:
                index.add(tensor, hash)
        except (OSError, ShortFileError) as error:
            _LOG.warning("%s of %s cannot be read: %s", self.layout.tensors[tensor].name, self.layout.path, error)
            return False
        return is_right

    def _open_index(self) -> Index | None:
        """None: nothing can be remembered."""
        if self._index is None:
            facts = json.dumps([asdict(mark) for mark in self._marks])
            name = hashlib.sha256(facts.encode()).hexdigest()
            try:
                self._memory.mkdir(parents=True, exist_ok=True)
                self._index = Index(self._memory / name, self.identity, len(self.layout.tensors), _ANY_BOOT)
            except OSError as error:
                _LOG.warning("what is verified of %s cannot be remembered: %s", self.layout.path, error)
        return self._index


class LocalFiles:
    """Finds models among files."""

    def __init__(self, folders: Sequence[Path], store_folder: Path) -> None:
        """Looks below `folders`; remembers in the store's folder what it read."""
        self.folders = tuple(folders)
        self._memory = store_folder / _MEMORY_FOLDER
        self._scan = Scan(folders, self._memory / _HEADERS_FILE)

    def find(self, identity: str, path: str, *, fresh: bool = False) -> ModelLayout | None:
        """The layout of a file that is that model: at `path`, else below the folders; None: there is none.

        Args:
            fresh: look through the folders now, whenever that was done last.
        """
        there = Path(path).expanduser()
        candidates = [there] if there.is_file() else []
        for candidate in (*candidates, *self._scan.paths(fresh=fresh)):
            if self._scan.identity(candidate) == identity:
                with contextlib.suppress(NativeError):
                    layout = self._scan.layout(candidate)
                    if layout.identity == identity:
                        return layout
        return None

    def named(self, path: str, name: str) -> list[ModelLayout]:
        """The layouts of the file at `path` and of those called `name` below the folders, whatever models they are.

        Raises:
            ModelFileError: one of them is no usable GGUF.
        """
        there = Path(path).expanduser()
        paths = [there] if there.is_file() else []
        paths += [path for path in self._scan.paths(fresh=False) if path.name == name]
        return [self._scan.layout(path) for path in paths]

    def open(self, layout: ModelLayout, parts: Sequence[Part]) -> LocalFile:
        """A found file; `parts` as the coordinator offered them, to know its very file by.

        Raises:
            OSError: it cannot be opened any more.
        """
        return LocalFile(layout, self._memory, is_original=is_original(layout, parts))

    def save(self) -> None:
        """Keeps what was learnt of headers, and no more logs than needed."""
        self._scan.save()
        with contextlib.suppress(OSError):
            logs = sorted(self._memory.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
            for log in logs[_MAX_LOGS:]:
                log.unlink(missing_ok=True)


def is_original(layout: ModelLayout, parts: Sequence[Part]) -> bool:
    """Whether these are the very files that a coordinator offers."""
    if len(parts) != len(layout.files):
        return False
    try:
        return all(
            part.stamp and part.stamp == file_stamp(path) for part, path in zip(parts, layout.files, strict=True)
        )
    except OSError:
        return False
