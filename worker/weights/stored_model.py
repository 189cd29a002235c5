# SPDX-License-Identifier: MIT
"""One model in the store: sparse files in its own layout, and which tensors in them are here and right.

Any thread of any process that shares the store, at once; what they share lies in its folder (model_folder.py).
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from native import ModelFileError, ModelLayout, TensorLayout, read_layout
from protos.cache_folder import CACHE_VARIABLE
from worker.errors import ModelGoneError, StoreUnusableError
from worker.weights import disk
from worker.weights.about import About, DamagedModelError
from worker.weights.claim import Claim
from worker.weights.hashing import ShortFileError, hash_range
from worker.weights.index import Index
from worker.weights.model_folder import ABOUT_FILE, CLAIMS_FOLDER, INDEX_FILE, PARTS_FOLDER, USE_FILE
from worker.weights.piece import Piece
from worker.weights.room import Reservation, Room
from worker.weights.use import Use
from worker.weights.writer import TensorWriter

_LOG = logging.getLogger(__name__)

# How often it is looked whether somebody else is done with a tensor.
_POLL_S = 0.05
# What a disk writes in a tenth of a second.
_LITTLE_BYTES = 32 << 20


class StoredModel:
    """An open one. ModelStore makes it, and closes it."""

    def __init__(
        self,
        folder: Path,
        layout: ModelLayout,
        sizes: Sequence[int],
        boot: str,
        *,
        room: Room,
        on_written: Callable[["StoredModel"], None],
    ) -> None:
        """Opens what `layout` was read from.

        Args:
            sizes: bytes of each file.
            boot: which start of the machine this is.
            room: on the disk it lies on.
            on_written: is told that there is something to `sync`.

        Raises:
            OSError: something cannot be opened.
        """
        self.folder = folder
        self.layout = layout
        self._sizes = tuple(sizes)
        self._boot = boot
        self._room = room
        self._on_written = on_written
        self._use = Use(folder / USE_FILE, layout.files)
        self._index = Index(folder / INDEX_FILE, layout.identity, len(layout.tensors), boot)
        self._is_settled = False

    @classmethod
    def open(
        cls,
        folder: Path,
        boot: str,
        *,
        room: Room,
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
            if layout.identity != folder.name:
                raise DamagedModelError("its header was changed")
            model = cls(folder, layout, sizes, boot, room=room, on_written=on_written)
        except (ModelFileError, FileNotFoundError) as error:
            raise DamagedModelError(str(error)) from error
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
            return self._use.sizes() == self._sizes
        except ModelGoneError:
            return False

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
    def in_use(self, needed: Collection[int] | None = None, *, counts: bool = True) -> Iterator[None]:
        """While this lasts, the model stays in the store, for this process and all others.

        Args:
            needed: the tensors that must stay; None: all. The others may go when there is no room for something else.
            counts: whether that is a use by which it is kept longer than others.

        Raises:
            ModelGoneError: it is not there any more: find it again, or create it.
            StoreUnusableError: it cannot be opened.
        """
        with self._disk_errors():
            self._use.begin(needed)
        try:
            if counts:
                self._use.touch()
            yield
        finally:
            if counts:
                self._use.touch()
            self._use.end(needed)

    def begin(self, tensor: int, wait_s: float = 0.0) -> TensorWriter | None:
        """The right to write a tensor that is not held, which one writer has at a time; it keeps the model in use.

        One that was here when the machine went down is verified instead, and held if it is right.

        Args:
            wait_s: how long to wait for another writer of it, in this process or another.

        Returns:
            None: it is held by now, or another one is still writing it: `is_held` tells.

        Raises:
            ModelGoneError: the model is not in the store any more.
            DiskFullError, StoreUnusableError: the store has no room for it, or cannot be written.
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
            ModelGoneError: the model is not in the store any more.
            StoreUnusableError: what was found cannot be written down.
        """
        self._index.refresh()
        version, expected = self._index.version(tensor), self._index.hash_of(tensor)
        if expected is None:
            return False
        with self.in_use(counts=False):
            is_right = self._hash(tensor) == expected
        with self._disk_errors():
            if not is_right:
                self._index.drop({tensor: version})
                self._forget_claims([tensor])
            elif not self._index.is_held(tensor):
                self._index.add(tensor, expected)
                self._on_written(self)
        return is_right

    def piece(self, tensor: int) -> Piece:
        """Where a tensor lies. The model must be in use; the file stays open for as long as it is."""
        about = self._about(tensor)
        return Piece(self._use.fds[about.file_index], about.offset_bytes, about.n_bytes)

    def sync(self, go_on: Callable[[], bool]) -> None:
        """Brings all that was written to the disk, and notes that; blocks for as long as the disk takes. Meanwhile the
        model may be deleted.

        Args:
            go_on: asked often; when it says no, nothing more is done.

        Raises:
            OSError: it does not get there. Then nothing that was not there before counts as held.
        """
        if not self.is_here():
            return
        try:
            position = self._sync_files(lambda: go_on() and self.is_here())
        except OSError:
            if not self.is_here():
                return
            self._drop(self._index.not_synced())
            raise
        if position is not None:
            self._index.synced(position)

    def shrink(self) -> int:
        """Gives up what nobody needs of a model that only this process uses; the bytes that are free now. Only for who
        has the store to itself.

        Raises:
            OSError: what goes cannot be written down.
        """
        with self._use.alone() as needed:
            if needed is None:
                return 0
            self._index.refresh()
            surplus = sorted((self._index.held() | self._index.unsure()) - needed)
            # For good, before the bytes go.
            self._drop(surplus)
            for piece in map(self.piece, surplus):
                disk.punch(piece.fd, piece.offset_bytes, piece.n_bytes)
            return sum(self._about(tensor).n_bytes for tensor in surplus)

    def close(self) -> None:
        """Safe to repeat; nobody may use it any more."""
        self._index.close()

    def _try_begin(self, tensor: int) -> TensorWriter | None:
        about = self._about(tensor)
        with contextlib.ExitStack() as stack:
            # Whoever uses the model says what of it must stay.
            stack.enter_context(self.in_use(() if self._use.is_used else None))
            with self._disk_errors():
                claim = Claim.take(self.folder / CLAIMS_FOLDER / str(tensor), self._boot, about.n_bytes)
            if claim is None:
                return None
            stack.callback(claim.release)
            # Whoever had the claim may have been done with it.
            if self.is_held(tensor) or (self.hash_of(tensor) is not None and self.verify(tensor)):
                claim.finish()
                return None
            with self._disk_errors():
                reservation = self._room.reserve(about.n_bytes - claim.ranges.n_bytes)
            stack.callback(reservation.release)
            resources = stack.pop_all()
        return TensorWriter(
            name=about.name,
            piece=self.piece(tensor),
            claim=claim,
            write_all=lambda fd, view, offset: self._write_all(fd, view, offset, reservation),
            on_finished=lambda hash: self._finished(tensor, hash),
            on_closed=resources.close,
        )

    def _finished(self, tensor: int, hash: bytes) -> None:
        with self._disk_errors():
            try:
                self._index.add(tensor, hash)
            except OSError as error:
                if not disk.is_full(error):
                    raise
                self._room.free(1)
                self._index.add(tensor, hash)
        self._on_written(self)

    def _write_all(self, fd: int, view: memoryview, offset: int, reservation: Reservation) -> None:
        with self._disk_errors():
            while view:
                try:
                    n_written = os.pwrite(fd, view, offset)
                except OSError as error:
                    if not disk.is_full(error):
                        raise
                    self._room.free(len(view))
                    continue
                reservation.written(n_written)
                view, offset = view[n_written:], offset + n_written

    def _hash(self, tensor: int) -> bytes | None:
        """None: it cannot be read."""
        where = self.piece(tensor)
        try:
            return hash_range(where.fd, where.offset_bytes, where.n_bytes)
        except (OSError, ShortFileError) as error:
            _LOG.warning("%s of %s cannot be read: %s", self._about(tensor).name, self.folder, error)
            return None

    def _sync_files(self, go_on: Callable[[], bool]) -> int | None:
        """Up to which position of the index all is on the disk; None: it was told not to go on."""
        done: set[int] = set()
        with contextlib.ExitStack() as stack:
            fds = [stack.enter_context(path.open("rb")).fileno() for path in self.layout.files]
            while True:
                position = self._index.position()
                behind = sorted(self._index.not_synced() - done)
                pieces = [(fds[t.file_index], t.offset_bytes, t.n_bytes) for t in map(self._about, behind)]
                # The last step cannot be ended: only little may be left for it.
                if sum(n_bytes for _, _, n_bytes in pieces) <= _LITTLE_BYTES:
                    break
                if not all(disk.sync_range(*piece, go_on) for piece in pieces):
                    return None
                done.update(behind)
            for fd in fds:
                disk.sync(fd)
        if not self._is_settled:
            # What says that there is a model.
            for path in (self.folder / ABOUT_FILE, self.folder / PARTS_FOLDER, self.folder, self.folder.parent):
                disk.sync_path(path)
            self._is_settled = True
        return position

    def _drop(self, tensors: Iterable[int]) -> None:
        self._index.drop({tensor: self._index.version(tensor) for tensor in tensors})

    def _forget_claims(self, tensors: Iterable[int]) -> None:
        """Nothing is known of what is written of them, unless somebody is at it."""
        for path in (self.folder / CLAIMS_FOLDER / str(tensor) for tensor in tensors):
            claim = Claim.take(path, self._boot, 0) if path.exists() else None
            if claim is not None:
                claim.finish()

    def _about(self, tensor: int) -> TensorLayout:
        return self.layout.tensors[tensor]

    def _mend_sizes(self) -> None:
        """A file that was cut off loses the tensors behind the cut, before it has its length again."""
        for index, (path, n_bytes) in enumerate(zip(self.layout.files, self._sizes, strict=True)):
            size = path.stat().st_size
            if size == n_bytes:
                continue
            if size < n_bytes:
                _LOG.warning("%s was cut off: what is missing of it is fetched again", path)
            tensors = enumerate(self.layout.tensors)
            lost = [i for i, t in tensors if t.file_index == index and t.offset_bytes + t.n_bytes > size]
            self._drop(lost)
            self._forget_claims(lost)
            os.truncate(path, n_bytes)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnusableError(
                f"the store in {self.folder.parent} cannot be used ({error.strerror or error}); see to that, or name"
                f" another folder with {CACHE_VARIABLE}"
            ) from error
