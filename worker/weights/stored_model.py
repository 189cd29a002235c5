# SPDX-License-Identifier: MIT
"""One model in the store: sparse files in its own layout, and which tensors in them are here and right.

Any thread of any process that shares the store, at once. A model's folder:

    parts/NAME       the model's files, under their own names, full of holes
    index            which tensors are here (index.py)
    claims/TENSOR    a tensor that is being fetched, or that a fetch broke off in (claim.py)
    use              locked by whoever uses the model; its time of change is when that was last
    model.json       what the files are
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from native import ModelFileError, ModelLayout, read_layout
from worker.errors import ModelGoneError, StoreUnusableError
from worker.weights import disk
from worker.weights.claim import Claim
from worker.weights.hashing import ShortFileError, hash_range
from worker.weights.index import Index
from worker.weights.locks import FileLock
from worker.weights.parts import Part
from worker.weights.piece import Piece
from worker.weights.writer import TensorWriter

_LOG = logging.getLogger(__name__)

PARTS_FOLDER = "parts"
CLAIMS_FOLDER = "claims"
USE_FILE = "use"
INDEX_FILE = "index"
_ABOUT_FILE = "model.json"

# How often it is looked whether somebody else is done with a tensor.
_POLL_S = 0.05


class DamagedModelError(Exception):
    """Its folder does not hold what a model's folder holds."""


@dataclass(frozen=True, slots=True)
class About:
    """What model.json holds: enough to list a model without reading its header."""

    name: str
    parts: tuple[Part, ...]
    n_tensors: int
    n_bytes: int

    @classmethod
    def read(cls, folder: Path) -> "About":
        """Raises DamagedModelError."""
        try:
            match json.loads((folder / _ABOUT_FILE).read_text(encoding="utf-8")):
                case {"name": str(name), "parts": [*parts], "n_tensors": int(n_tensors), "n_bytes": int(n_bytes)}:
                    return cls(name, tuple(_part(part) for part in parts), n_tensors, n_bytes)
        except (OSError, ValueError) as error:
            raise DamagedModelError(f"its {_ABOUT_FILE} cannot be read ({error})") from error
        raise DamagedModelError(f"its {_ABOUT_FILE} is not one of ours")

    def write(self, folder: Path) -> None:
        """Raises OSError."""
        parts = [
            {"file_name": p.file_name, "n_bytes": p.n_bytes, "n_header_bytes": p.n_header_bytes} for p in self.parts
        ]
        text = json.dumps({"name": self.name, "parts": parts, "n_tensors": self.n_tensors, "n_bytes": self.n_bytes})
        (folder / _ABOUT_FILE).write_text(text, encoding="utf-8")


def _part(fields: object) -> Part:
    match fields:
        case {"file_name": str(name), "n_bytes": int(n_bytes), "n_header_bytes": int(n_header_bytes)}:
            return Part(name, n_bytes, n_header_bytes)
    raise ValueError(f"{fields} is no part")


class StoredModel:
    """An open one. ModelStore makes it, and closes it."""

    def __init__(
        self,
        folder: Path,
        layout: ModelLayout,
        sizes: Sequence[int],
        boot: str,
        *,
        free: Callable[[int], None],
        on_written: Callable[["StoredModel"], None],
    ) -> None:
        """Opens what `layout` was read from.

        Args:
            sizes: bytes of each file.
            boot: which start of the machine this is.
            free: makes some room, of so many bytes if it can; raises DiskFullError if it cannot at all.
            on_written: is told that there is something to `sync`.

        Raises:
            OSError: something cannot be opened.
        """
        self.folder = folder
        self.layout = layout
        self._sizes = tuple(sizes)
        self._boot = boot
        self._free = free
        self._on_written = on_written
        self._index = Index(folder / INDEX_FILE, layout.identity, len(layout.tensors), boot)
        self._use_stat = (folder / USE_FILE).stat()
        self._fds: list[int] = []
        self._is_settled = False
        try:
            for path in layout.files:
                self._fds.append(os.open(path, os.O_RDWR))
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        folder: Path,
        boot: str,
        *,
        free: Callable[[int], None],
        on_written: Callable[["StoredModel"], None],
    ) -> "StoredModel":
        """As the constructor; what lies in the folder is checked, and mended where a file was cut off.

        Raises:
            DamagedModelError: the header is not the model's, or something is missing.
            OSError: something cannot be opened.
        """
        about = About.read(folder)
        sizes = [part.n_bytes for part in about.parts]
        try:
            layout = read_layout(folder / PARTS_FOLDER / about.parts[0].file_name, sizes)
        except ModelFileError as error:
            raise DamagedModelError(str(error)) from error
        if layout.identity != folder.name:
            raise DamagedModelError("its header was changed")
        model = cls(folder, layout, sizes, boot, free=free, on_written=on_written)
        try:
            model._mend_sizes()
        except BaseException:
            model.close()
            raise
        return model

    @property
    def identity(self) -> str:
        """The model's, which is its folder's name."""
        return self.layout.identity

    @property
    def last_used(self) -> float:
        """Seconds since the epoch, of the last use's beginning or end; 0 if the model is gone."""
        try:
            return (self.folder / USE_FILE).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def is_here(self) -> bool:
        """Whether it is still in the store, with files as large as they should be."""
        try:
            stats = [path.stat() for path in self.layout.files]
            is_same = os.path.samestat(self._use_stat, (self.folder / USE_FILE).stat()) and all(
                os.path.samestat(os.fstat(fd), stat) for fd, stat in zip(self._fds, stats, strict=True)
            )
        except OSError:
            return False
        return is_same and tuple(stat.st_size for stat in stats) == self._sizes

    def held(self) -> frozenset[int]:
        """Tensors that are here and right, whoever fetched them, by their place in `layout.tensors`."""
        self._index.refresh()
        return self._index.held()

    def is_held(self, tensor: int) -> bool:
        """Whether `held` has it."""
        self._index.refresh()
        return self._index.is_held(tensor)

    def hash_of(self, tensor: int) -> bytes | None:
        """What a held tensor was verified against."""
        return self._index.hash_of(tensor)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """While this lasts, the model stays in the store, for this process and all others.

        Raises:
            ModelGoneError: it is not there any more; create it again.
        """
        lock = self._use()
        try:
            yield
        finally:
            os.utime(lock.fd)
            lock.release()

    def begin(self, tensor: int, wait_s: float = 0.0) -> TensorWriter | None:
        """The right to write a tensor that is not held, which one writer has at a time; it keeps the model in use.

        One that was here when the machine went down is verified instead, and held if it is right.

        Args:
            wait_s: how long to wait for another writer of it, in this process or another.

        Returns:
            None: it is held by now, or another one is still writing it: `is_held` tells.

        Raises:
            ModelGoneError: the model is not in the store any more.
            StoreUnusableError: the store cannot be written.
        """
        deadline = time.monotonic() + wait_s
        while not self.is_held(tensor):
            writer = self._try_begin(tensor)
            if writer is not None:
                return writer
            if time.monotonic() >= deadline:
                return None
            time.sleep(_POLL_S)
        return None

    def verify(self, tensor: int) -> bool:
        """Reads a tensor that is held, or was when the machine went down, and hashes it. One that is wrong is
        forgotten, so that it is fetched again; False also for one that was never here.

        Raises:
            StoreUnusableError: what was found cannot be written down.
        """
        expected = self.hash_of(tensor)
        if expected is None:
            return False
        where = self.piece(tensor)
        try:
            is_right = hash_range(where.fd, where.offset_bytes, where.n_bytes) == expected
        except (OSError, ShortFileError) as error:
            _LOG.warning("%s of %s cannot be read: %s", self.layout.tensors[tensor].name, self.folder, error)
            is_right = False
        with self._disk_errors():
            if not is_right:
                self._index.drop(tensor)
            elif not self._index.is_held(tensor):
                self._index.add(tensor, expected)
                self._on_written(self)
        return is_right

    def piece(self, tensor: int) -> Piece:
        """Where a tensor lies; the file stays open while the model is in use."""
        about = self.layout.tensors[tensor]
        return Piece(self._fds[about.file_index], about.offset_bytes, about.n_bytes)

    def sync(self) -> None:
        """Brings all that was written to the disk, and notes that; blocks for as long as the disk takes.

        Raises:
            OSError: it does not get there. Then nothing that was not there before counts as held.
        """
        position = self._index.position()
        try:
            for fd in self._fds:
                disk.sync(fd)
            self._settle()
        except OSError:
            for tensor in self._index.not_synced():
                self._index.drop(tensor)
            raise
        self._index.synced(position)

    def close(self) -> None:
        """Safe to repeat; nobody may use it any more."""
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)
        self._index.close()

    def _use(self) -> FileLock:
        with self._disk_errors():
            lock = FileLock.take(self.folder / USE_FILE, shared=True, wait=True, create=False)
            if lock is not None and os.path.samestat(os.fstat(lock.fd), self._use_stat):
                os.utime(lock.fd)
                return lock
        if lock is not None:
            lock.release()
        raise ModelGoneError(f"{self.layout.name} made room for another model in this worker's store; try again")

    def _try_begin(self, tensor: int) -> TensorWriter | None:
        about = self.layout.tensors[tensor]
        with contextlib.ExitStack() as stack:
            use = stack.enter_context(self._use())
            with self._disk_errors():
                claim = Claim.take(self.folder / CLAIMS_FOLDER / str(tensor), self._boot, about.n_bytes)
            if claim is None:
                return None
            stack.callback(claim.release)
            # Whoever had the claim may have been done with it.
            if self.is_held(tensor) or (self.hash_of(tensor) is not None and self.verify(tensor)):
                claim.finish()
                return None
            stack.pop_all()
        return TensorWriter(
            name=about.name,
            fd=self._fds[about.file_index],
            offset_bytes=about.offset_bytes,
            n_bytes=about.n_bytes,
            claim=claim,
            write_all=self._write_all,
            on_finished=lambda hash: self._finished(tensor, hash),
            on_closed=use.release,
        )

    def _finished(self, tensor: int, hash: bytes) -> None:
        with self._disk_errors():
            try:
                self._index.add(tensor, hash)
            except OSError as error:
                if not disk.is_full(error):
                    raise
                self._free(1)
                self._index.add(tensor, hash)
        self._on_written(self)

    def _write_all(self, fd: int, view: memoryview, offset: int) -> None:
        with self._disk_errors():
            while view:
                try:
                    n_written = os.pwrite(fd, view, offset)
                except OSError as error:
                    if not disk.is_full(error):
                        raise
                    self._free(len(view))
                    continue
                view, offset = view[n_written:], offset + n_written

    def _settle(self) -> None:
        """Brings what says that there is a model to the disk."""
        if not self._is_settled:
            for path in (self.folder / _ABOUT_FILE, self.folder / PARTS_FOLDER, self.folder, self.folder.parent):
                disk.sync_path(path)
            self._is_settled = True

    def _mend_sizes(self) -> None:
        """A file that was cut off loses the tensors behind the cut, before it has its length again."""
        for index, (fd, n_bytes) in enumerate(zip(self._fds, self._sizes, strict=True)):
            size = os.fstat(fd).st_size
            if size == n_bytes:
                continue
            if size < n_bytes:
                _LOG.warning("%s was cut off: what is missing is fetched again", self.layout.files[index])
            for tensor, about in enumerate(self.layout.tensors):
                if about.file_index == index and about.offset_bytes + about.n_bytes > size:
                    self._index.drop(tensor)
            os.ftruncate(fd, n_bytes)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnusableError(
                f"the store in {self.folder.parent} cannot be used ({error.strerror or error}); see to that, or name"
                " another folder with CARAVAN_CACHE"
            ) from error
