# SPDX-License-Identifier: MIT
"""The store: what this machine fetched of models, in a folder per model, shared by all its workers (docs/weights.md).

Any thread. Every process opens the folder for itself; what they agree on lies in the folder (model_folder.py).
"""

import logging
import os
import shutil
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from native import ModelLayout
from protos.boot import boot_id
from protos.cache_folder import CACHE_VARIABLE, cache_folder
from protos.sizes import size
from worker.errors import BadRequestError, DiskFullError, StoreUnusableError
from worker.weights import disk
from worker.weights.about import DamagedModelError
from worker.weights.draft import Draft, HeaderChunk
from worker.weights.model_folder import PARTS_FOLDER, USE_FILE
from worker.weights.parts import Part, check_parts, is_identity
from worker.weights.room import Listed, Room
from worker.weights.stored_model import StoredModel
from worker.weights.syncing import Syncer

_LOG = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20


def models_folder() -> Path:
    """Where the store of this user lies; it need not exist."""
    return cache_folder() / "models"


class ModelStore:
    """The models in one folder."""

    def __init__(self, folder: Path, limit_bytes: int | None, boot: str | None = None) -> None:
        """`folder` is made when there is something to keep.

        Args:
            limit_bytes: the most it may take on its disk; None: what leaves others a share (eviction.py).
            boot: which start of the machine this is; None: asked of the system.
        """
        self.folder = folder
        self._boot = boot_id() if boot is None else boot
        self._lock = threading.Lock()
        self._models: dict[str, StoredModel] = {}
        # Gone, or changed by somebody else; another thread may still read from them.
        self._outdated: list[StoredModel] = []
        self._room = Room(folder, limit_bytes, self._boot, self._shrink)
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
            self._room.clean()
            self._room.make(sum(part.n_header_bytes for part in parts))
            draft = Draft(self.folder, identity, parts)
            try:
                if not draft.fill(chunks):
                    _LOG.warning(
                        "%s keeps no holes in files: there %s takes all of its %s, whatever part of it is needed",
                        self.folder,
                        parts[0].file_name,
                        size(sum(part.n_bytes for part in parts)),
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
        """Sees to it that so much more fits, under the limit and on the disk. Who begins a tensor need not ask; this is
        to know beforehand whether all of a load does.

        Raises:
            DiskFullError: it does not, whatever goes; then no model went.
            StoreUnusableError: the folder cannot be used.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._room.make(n_bytes)
        except OSError as error:
            raise self._unusable(error) from error

    def remove(self, identity: str) -> int:
        """Deletes a model that nobody uses; the bytes that are free now: 0 if somebody does, or it is not here.

        Raises:
            OSError: it cannot be deleted.
        """
        return self._room.remove(identity)

    def models(self) -> list[Listed]:
        """All that are here, the last used first. Raises OSError."""
        return self._room.models()

    def clean(self) -> None:
        """Deletes what processes that were killed left half made or half deleted. Raises OSError."""
        self._room.clean()

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
            model = StoredModel.open(folder, self._boot, room=self._room, on_written=self._syncer.add)
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
        with self._lock, self._room.alone():
            model = self._find(draft.identity)
            if model is None and folder.is_dir():
                _mend(folder, draft)
            elif model is None:
                draft.folder.rename(folder)
            model = model or self._find(draft.identity)
        if model is None:
            raise StoreUnusableError(f"{folder} is damaged beyond mending; delete that folder")
        return model

    def _shrink(self, n_bytes: int) -> int:
        """As Room is given it."""
        with self._lock:
            models = sorted(self._models.values(), key=lambda model: model.last_used)
        freed_bytes = 0
        with self._room.alone():
            for model in models:
                if freed_bytes < n_bytes and model.is_here():
                    freed_bytes += model.shrink()
        return freed_bytes

    def _unusable(self, error: OSError) -> DiskFullError | StoreUnusableError:
        if disk.is_full(error):
            return self._room.full(1, disk.free_bytes(self.folder))
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
