# SPDX-License-Identifier: MIT
"""A model's files on this machine outside of the store, and which of their tensors are verified. Any thread."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from native import ModelLayout
from worker.errors import ModelGoneError
from worker.weights.hashing import ShortFileError, hash_range
from worker.weights.index import Index
from worker.weights.piece import Piece
from worker.weights.scan import Mark

_LOG = logging.getLogger(__name__)

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
