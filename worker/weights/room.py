# SPDX-License-Identifier: MIT
"""The store's room on its disk: which models take how much of it, and who leaves when more is needed. Any thread."""

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from protos.cache_folder import CACHE_VARIABLE
from protos.sizes import size
from worker.errors import DiskFullError
from worker.weights import disk
from worker.weights.about import About, DamagedModelError
from worker.weights.eviction import Tenant, choose, room_bytes
from worker.weights.index import Index
from worker.weights.locks import FileLock
from worker.weights.model_folder import DRAFT_PREFIX, GONE_PREFIX, INDEX_FILE, LOCK_FILE, USE_FILE
from worker.weights.parts import is_identity

_LOG = logging.getLogger(__name__)

# Others write to the disk, too: so long it is taken to have the room that it had.
_LOOK_S = 2.0
# What a tensor takes beside itself: the blocks at its ends, and that of its claim, in most file systems.
_ROUNDING_BYTES = 3 * 4096


@dataclass(frozen=True, slots=True)
class Listed:
    """A model of the store, for people; `about` None: its folder is damaged. `taken_bytes` on the disk."""

    identity: str
    about: About | None
    n_held: int
    taken_bytes: int
    last_used: float
    is_in_use: bool


class Promises:
    """Bytes that may be written and are not yet, of all tensors together: the disk does not tell of them."""

    def __init__(self) -> None:
        # Of its own, so that who writes does not wait for who looks through the folder.
        self._lock = threading.Lock()
        self._n_bytes = 0

    @property
    def n_bytes(self) -> int:
        """All of them."""
        return self._n_bytes

    def add(self, n_bytes: int) -> None:
        """So many more; fewer, if negative."""
        with self._lock:
            self._n_bytes += n_bytes


class Reservation:
    """Room for a tensor, until it is written or given up. Any thread."""

    def __init__(self, promises: Promises, n_bytes: int) -> None:
        self._promises = promises
        self._left_bytes = n_bytes
        self._lock = threading.Lock()
        promises.add(n_bytes)

    def written(self, n_bytes: int) -> None:
        """So much of it is on the disk now."""
        with self._lock:
            n_bytes = min(n_bytes, self._left_bytes)
            self._left_bytes -= n_bytes
        self._promises.add(-n_bytes)

    def release(self) -> None:
        """Nothing more comes; safe to repeat."""
        self.written(self._left_bytes)


class Room:
    """One process's view of it; the limits hold for what all of them take."""

    def __init__(self, folder: Path, limit_bytes: int | None, boot: str, shrink: Callable[[int], int]) -> None:
        """`shrink` gives up what is not needed of models in use here, so many bytes if it can, and says how many."""
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._boot = boot
        self._shrink = shrink
        self._lock = threading.Lock()
        self._spare_bytes = 0
        self._looked_at = -_LOOK_S
        self._promises = Promises()

    def make(self, n_bytes: int) -> None:
        """Sees to it that so much more fits, under the limit and on the disk; models that nobody uses may go for it,
        and then what nobody needs of those that are used here.

        Raises:
            DiskFullError: it does not, even so; then no model went.
            OSError: the folder cannot be used.
        """
        with self._lock:
            self._make(n_bytes)

    def reserve(self, n_bytes: int) -> Reservation:
        """The same for a tensor that is about to be written, and has the room to itself; looks at the disk only now and
        then. Raises as `make`."""
        n_bytes += _ROUNDING_BYTES
        with self._lock:
            if n_bytes > self._spare_bytes or time.monotonic() >= self._looked_at + _LOOK_S:
                self._make(n_bytes)
            self._spare_bytes -= n_bytes
            return Reservation(self._promises, n_bytes)

    def free(self, n_bytes: int) -> None:
        """The disk is full, whatever it said before: makes so much room, if it can.

        Raises:
            DiskFullError: it cannot make any.
            OSError: the folder cannot be used.
        """
        with self._lock:
            self._spare_bytes = 0
            freed_bytes = sum(self.remove(tenant.identity) for tenant in choose(self._tenants(), n_bytes))
            if freed_bytes == 0 and self._shrink(n_bytes) == 0:
                raise self.full(n_bytes, disk.free_bytes(self._folder))

    def full(self, n_bytes: int, room: int) -> DiskFullError:
        """What is said when so much does not fit."""
        free_bytes = max(room, 0)
        return DiskFullError(
            f"{size(n_bytes)} of weights do not fit into {self._folder}, which has room for {size(free_bytes)}: free"
            f" some of that disk, allow more of it with --cache-size, or name another folder with {CACHE_VARIABLE}",
            needed_bytes=n_bytes,
            free_bytes=free_bytes,
        )

    def models(self) -> list[Listed]:
        """All that are here, the last used first. Raises OSError."""
        listed = [self._listed(path.name) for path in self._paths() if is_identity(path.name)]
        return sorted((model for model in listed if model is not None), key=lambda model: -model.last_used)

    def remove(self, identity: str) -> int:
        """Deletes a model that nobody uses; the bytes that are free now: 0 if somebody does, or it is not here.

        Raises:
            OSError: it cannot be deleted.
        """
        folder = self._folder / identity
        if not folder.is_dir():
            return 0
        with self.alone():
            lock = FileLock.take(folder / USE_FILE)
            if lock is None:
                return 0
            with lock:
                n_bytes = disk.taken_bytes(folder)
                # One that is half deleted is no model any more.
                gone = self._folder / f"{GONE_PREFIX}{identity}-{uuid.uuid4().hex}"
                folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        _LOG.info("deleted the model %s from the store: %s", identity, size(n_bytes))
        return n_bytes

    def clean(self) -> None:
        """Deletes what processes that were killed left half made or half deleted. Raises OSError."""
        for path in self._paths():
            if path.name.startswith(GONE_PREFIX):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith(DRAFT_PREFIX):
                lock = FileLock.take(path / USE_FILE, create=False)
                if lock is not None:
                    with lock:
                        shutil.rmtree(path, ignore_errors=True)

    def alone(self) -> FileLock:
        """The lock of those who change what models there are. Raises OSError."""
        lock = FileLock.take(self._folder / LOCK_FILE, wait=True)
        assert lock is not None, "it was waited for"
        return lock

    def _make(self, n_bytes: int) -> None:
        self._look()
        if n_bytes <= self._spare_bytes:
            return
        chosen = choose(self._tenants(), n_bytes - self._spare_bytes)
        most = self._spare_bytes + sum(tenant.n_bytes for tenant in chosen)
        if n_bytes > most:
            most += self._shrink(n_bytes - most)
        if n_bytes > most:
            raise self.full(n_bytes, most)
        for tenant in chosen:
            self.remove(tenant.identity)
        self._look()
        if n_bytes > self._spare_bytes:
            raise self.full(n_bytes, self._spare_bytes)

    def _look(self) -> None:
        # Before the disk is looked at: what is written meanwhile counts twice, and never not at all.
        promised_bytes = self._promises.n_bytes
        self._spare_bytes = -promised_bytes + room_bytes(
            self._limit_bytes,
            disk.taken_bytes(self._folder),
            disk.free_bytes(self._folder),
            disk.total_bytes(self._folder),
        )
        self._looked_at = time.monotonic()

    def _tenants(self) -> list[Tenant]:
        return [Tenant(m.identity, m.taken_bytes, m.last_used, m.is_in_use) for m in self.models()]

    def _paths(self) -> list[Path]:
        try:
            return list(self._folder.iterdir())
        except FileNotFoundError:
            return []

    def _listed(self, identity: str) -> Listed | None:
        """None: it has just gone."""
        folder = self._folder / identity
        try:
            about = About.read(folder)
        except DamagedModelError:
            about = None
        n_held = 0
        try:
            if about is not None:
                index = Index(folder / INDEX_FILE, identity, about.n_tensors, self._boot)
                n_held = len(index.held())
                index.close()
            lock = FileLock.take(folder / USE_FILE)
            if lock is not None:
                lock.release()
            last_used = (folder / USE_FILE).stat().st_mtime
        except FileNotFoundError:
            return None
        return Listed(identity, about, n_held, disk.taken_bytes(folder), last_used, lock is None)
