# SPDX-License-Identifier: MIT
"""The store: what this machine fetched of models, in a folder per model, shared by all its workers (docs/weights.md).

Any thread. Every process opens the folder for itself; what they agree on lies in the folder (stored_model.py).
"""

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from native import ModelLayout
from protos.boot import boot_id
from protos.sizes import shown
from worker.cache_folder import CACHE_VARIABLE, cache_folder
from worker.errors import BadRequestError, DiskFullError, StoreUnusableError
from worker.weights import disk
from worker.weights.about import About, DamagedModelError
from worker.weights.draft import DRAFT_PREFIX, Draft, HeaderChunk
from worker.weights.eviction import Tenant, choose, room_bytes
from worker.weights.index import Index
from worker.weights.locks import FileLock
from worker.weights.parts import Part, check_parts, is_identity
from worker.weights.stored_model import INDEX_FILE, PARTS_FOLDER, USE_FILE, StoredModel
from worker.weights.syncing import Syncer

_LOG = logging.getLogger(__name__)

_LOCK_FILE = ".lock"
_GONE_PREFIX = ".gone-"
_CHUNK_BYTES = 1 << 20


def models_folder() -> Path:
    """Where the store of this user lies; it need not exist."""
    return cache_folder() / "models"


@dataclass(frozen=True, slots=True)
class Listed:
    """A model of the store, for people; `about` None: its folder is damaged. `taken_bytes` on the disk."""

    identity: str
    about: About | None
    n_held: int
    taken_bytes: int
    last_used: float
    is_in_use: bool


class ModelStore:
    """The models in one folder."""

    def __init__(self, folder: Path, limit_bytes: int | None, boot: str | None = None) -> None:
        """`folder` is made when there is something to keep.

        Args:
            limit_bytes: the most it may take on its disk; None: what leaves others a share (eviction.py).
            boot: which start of the machine this is; None: asked of the system.
        """
        self.folder = folder
        self._limit_bytes = limit_bytes
        self._boot = boot_id() if boot is None else boot
        self._lock = threading.Lock()
        self._models: dict[str, StoredModel] = {}
        # Gone, or changed by somebody else; another thread may still read from them.
        self._outdated: list[StoredModel] = []
        self._syncer = Syncer()

    def find(self, identity: str) -> StoredModel | None:
        """The model of that identity, whatever of it is here; None: not even its header, or that is damaged.

        Raises:
            StoreUnusableError: the folder cannot be used.
        """
        if not is_identity(identity):
            return None
        with self._lock:
            return self._find(identity)

    def create(self, identity: str, parts: Sequence[Part], chunks: Iterable[HeaderChunk]) -> StoredModel:
        """Makes a model known by its headers, which come in chunks; one that is here already keeps what it has.

        Raises:
            BadRequestError: they are not that model's, or not as offered.
            ModelFileError: they are no GGUF's.
            DiskFullError, StoreUnusableError: there is no room for them. Nothing is left behind, as with all of these.
        """
        if not is_identity(identity):
            raise BadRequestError(f"{identity!r} is no model's identity")
        check_parts(parts)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.clean()
            self.make_room(sum(part.n_header_bytes for part in parts))
            draft = Draft(self.folder, identity, parts)
            try:
                if not draft.fill(chunks):
                    _LOG.warning(
                        "%s keeps no holes in files: there %s takes all of its %s, whatever part of it is needed",
                        self.folder,
                        parts[0].file_name,
                        shown(sum(part.n_bytes for part in parts)),
                    )
                return self._accept(draft)
            finally:
                shutil.rmtree(draft.folder, ignore_errors=True)
                draft.lock.release()
        except OSError as error:
            raise self._unusable(error) from error

    def create_like(self, layout: ModelLayout) -> StoredModel:
        """Makes a model known by the headers of its files here. Raises as `create`."""
        paths = zip(layout.files, layout.header_bytes, strict=True)
        try:
            parts = [Part(path.name, path.stat().st_size, n_bytes) for path, n_bytes in paths]
        except OSError as error:
            raise BadRequestError(f"{layout.path} cannot be read any more ({error.strerror})") from error
        return self.create(layout.identity, parts, _chunks(layout))

    def make_room(self, n_bytes: int) -> None:
        """Sees to it that so much more fits, under the limit and on the disk; models that nobody uses may go for it.

        Raises:
            DiskFullError: it does not, even so; then nothing went.
            StoreUnusableError: the folder cannot be used.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            room = self._room_bytes()
            if n_bytes <= room:
                return
            chosen = choose(self._tenants(), n_bytes - room)
            most = room + sum(tenant.n_bytes for tenant in chosen)
            if n_bytes > most:
                raise self._full(n_bytes, most)
            for tenant in chosen:
                self.remove(tenant.identity)
            room = self._room_bytes()
        except OSError as error:
            raise self._unusable(error) from error
        if n_bytes > room:
            raise self._full(n_bytes, room)

    def remove(self, identity: str) -> int:
        """Deletes a model that nobody uses; the bytes that are free now: 0 if somebody does, or it is not here.

        Raises:
            OSError: it cannot be deleted.
        """
        folder = self.folder / identity
        lock = FileLock.take(folder / USE_FILE, create=False)
        if lock is None:
            return 0
        with lock:
            n_bytes = disk.taken_bytes(folder)
            # One that is half deleted is no model any more.
            gone = Path(tempfile.mkdtemp(prefix=_GONE_PREFIX, dir=self.folder))
            folder.rename(gone / identity)
        shutil.rmtree(gone)
        _LOG.info("deleted the model %s from the store: %s", identity, shown(n_bytes))
        return n_bytes

    def models(self) -> list[Listed]:
        """All that are here, the last used first. Raises OSError."""
        listed = [self._listed(path.name) for path in self._paths() if is_identity(path.name)]
        return sorted((model for model in listed if model is not None), key=lambda model: -model.last_used)

    def flush(self) -> None:
        """Blocks until all that was fetched is on the disk, so that a power cut takes nothing of it."""
        self._syncer.flush()

    def close(self) -> None:
        """Lets go of everything; nobody may use a model of it any more. What is not on the disk yet is the system's."""
        self._syncer.close()
        with self._lock:
            for model in [*self._models.values(), *self._outdated]:
                model.close()
            self._models.clear()
            self._outdated.clear()

    def _find(self, identity: str) -> StoredModel | None:
        model = self._models.get(identity)
        if model is not None:
            if model.is_here():
                return model
            self._outdated.append(self._models.pop(identity))
        folder = self.folder / identity
        if not folder.is_dir():
            return None
        try:
            model = StoredModel.open(folder, self._boot, free=self._free, on_written=self._syncer.add)
        except DamagedModelError as error:
            _LOG.warning("%s is damaged, and its header is needed again: %s", folder, error)
            return None
        except OSError as error:
            raise self._unusable(error) from error
        self._models[identity] = model
        return model

    def _accept(self, draft: Draft) -> StoredModel:
        """Gives the draft its name, or its headers to what has that name already."""
        folder = self.folder / draft.identity
        lock = FileLock.take(self.folder / _LOCK_FILE, wait=True)
        assert lock is not None, "it was waited for"
        with self._lock, lock:
            model = self._find(draft.identity)
            if model is None and folder.is_dir():
                _mend(folder, draft)
            elif model is None:
                draft.folder.rename(folder)
            model = model or self._find(draft.identity)
        if model is None:
            raise StoreUnusableError(f"{folder} is damaged beyond mending; delete that folder")
        return model

    def clean(self) -> None:
        """Deletes what processes that were killed left half made or half deleted. Raises OSError."""
        for path in self._paths():
            if path.name.startswith(_GONE_PREFIX):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith(DRAFT_PREFIX):
                lock = FileLock.take(path / USE_FILE, create=False)
                if lock is not None:
                    with lock:
                        shutil.rmtree(path, ignore_errors=True)

    def _room_bytes(self) -> int:
        return room_bytes(
            self._limit_bytes,
            disk.taken_bytes(self.folder),
            disk.free_bytes(self.folder),
            disk.total_bytes(self.folder),
        )

    def _free(self, n_bytes: int) -> None:
        """The disk is full, whatever it said before: deletes what may go, for `n_bytes` if it can."""
        freed_bytes = sum(self.remove(tenant.identity) for tenant in choose(self._tenants(), n_bytes))
        if freed_bytes == 0:
            raise self._full(n_bytes, disk.free_bytes(self.folder))

    def _tenants(self) -> list[Tenant]:
        return [Tenant(m.identity, m.taken_bytes, m.last_used, m.is_in_use) for m in self.models()]

    def _paths(self) -> list[Path]:
        try:
            return list(self.folder.iterdir())
        except FileNotFoundError:
            return []

    def _listed(self, identity: str) -> Listed | None:
        """None: it has just gone."""
        folder = self.folder / identity
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

    def _full(self, n_bytes: int, room: int) -> DiskFullError:
        free_bytes = max(room, 0)
        return DiskFullError(
            f"{shown(n_bytes)} of weights do not fit into {self.folder}, which has room for {shown(free_bytes)}: free"
            f" some of that disk, allow more of it with --cache-size, or name another folder with {CACHE_VARIABLE}",
            needed_bytes=n_bytes,
            free_bytes=free_bytes,
        )

    def _unusable(self, error: OSError) -> DiskFullError | StoreUnusableError:
        if disk.is_full(error):
            return self._full(1, disk.free_bytes(self.folder))
        return StoreUnusableError(
            f"the store in {self.folder} cannot be used ({error.strerror or error}); see to that, or name another"
            f" folder with {CACHE_VARIABLE}"
        )


def _mend(folder: Path, draft: Draft) -> None:
    """Gives a damaged model its headers back; what it has of weights stays."""
    for name in os.listdir(draft.folder):
        if (draft.folder / name).is_dir():
            (folder / name).mkdir(exist_ok=True)
        elif name != USE_FILE:
            (draft.folder / name).replace(folder / name)
    (folder / USE_FILE).touch()
    for part in draft.parts:
        fd = os.open(folder / PARTS_FOLDER / part.file_name, os.O_RDWR | os.O_CREAT, 0o666)
        with os.fdopen(fd, "r+b") as file:
            file.write(draft.header(part))


def _chunks(layout: ModelLayout) -> Iterable[HeaderChunk]:
    for index, (path, n_bytes) in enumerate(zip(layout.files, layout.header_bytes, strict=True)):
        with path.open("rb") as file:
            while n_bytes > 0:
                data = file.read(min(n_bytes, _CHUNK_BYTES))
                if not data:
                    return
                n_bytes -= len(data)
                yield HeaderChunk(index, data)
