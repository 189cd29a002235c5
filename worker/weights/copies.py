# SPDX-License-Identifier: MIT
"""What of one model is on this machine: in the store, and in a file that was found. For one load, on its threads."""

import contextlib
import threading
from pathlib import Path
from types import TracebackType

from native import ModelLayout
from worker.weights.local_file import LocalFile
from worker.weights.piece import Piece
from worker.weights.sources import Origin
from worker.weights.store import ModelStore
from worker.weights.stored_model import StoredModel
from worker.weights.writer import TensorWriter


class Copies:
    """A context manager: while it lasts, what is needed stays in the store, if it is there, and the file open."""

    def __init__(self, layout: ModelLayout, store: ModelStore, file: LocalFile | None) -> None:
        """`file` is closed by this."""
        self.layout = layout
        self._store = store
        self._file = file
        self._lock = threading.Lock()
        self._stored: StoredModel | None = None
        self._verified = frozenset() if file is None else file.verified()
        # The store reads it whenever it looks for room, and may give up all other tensors then.
        self._needed: set[int] = set()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Copies":
        """Raises ModelGoneError, StoreUnusableError."""
        with contextlib.ExitStack() as stack:
            if self._file is not None:
                stack.callback(self._file.close)
            stored = self._store.find(self.layout.identity)
            if stored is not None:
                stack.enter_context(stored.in_use(self._needed))
            self._stored = stored
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def check_unchanged(self) -> None:
        """Raises ModelGoneError: the file was changed since this was made."""
        if self._file is not None:
            self._file.check_unchanged()

    def need(self, tensor: int) -> None:
        """That one must stay, if it is here, and when it comes."""
        self._needed.add(tensor)

    def sure(self, tensor: int) -> Origin | None:
        """Where it is for sure, if it is."""
        return Origin.FILE if tensor in self._verified else None

    def unsure(self, tensor: int, *, in_one_file: bool) -> tuple[Origin, ...]:
        """Where it may be, to be checked; `in_one_file`: where all others may be, too."""
        places = []
        if self._file is not None:
            places.append(Origin.FILE)
        if self._stored is not None and self._stored.hash_of(tensor) is not None and not (places and in_one_file):
            # It was right once, and is nearer than most files are.
            places.insert(0, Origin.STORE)
        return tuple(places)

    def hash_of(self, tensor: int) -> bytes | None:
        """As the store knows it, from when it was fetched."""
        return None if self._stored is None else self._stored.hash_of(tensor)

    def check(self, tensor: int, origin: Origin, hash: bytes) -> bool:
        """Whether the copy there is right.

        Raises:
            ModelGoneError: the file was changed meanwhile.
            StoreUnusableError: what was found cannot be written down.
        """
        if origin is Origin.STORE:
            return self._stored is not None and self._stored.verify(tensor)
        return self._file is not None and tensor in self._file.verify({tensor: hash})

    def piece(self, tensor: int, origin: Origin) -> Piece:
        """Where its bytes lie there."""
        held_by = self._stored if origin is Origin.STORE else self._file
        assert held_by is not None, "a tensor is only found where something is"
        return held_by.piece(tensor)

    def path(self, origin: Origin) -> Path:
        """The model's (first) file there."""
        held_by = self._stored if origin is Origin.STORE else self._file
        assert held_by is not None, "a tensor is only found where something is"
        return held_by.layout.path

    def begin(self, tensor: int) -> TensorWriter | None:
        """As StoredModel.begin, without waiting; a model of which only a file is here is made known to the store.

        Raises:
            ModelGoneError, StoreUnusableError, DiskFullError, BadRequestError.
        """
        with self._lock:
            if self._stored is None:
                stored = self._store.create_like(self.layout)
                self._stack.enter_context(stored.in_use(self._needed))
                self._stored = stored
        return self._stored.begin(tensor)

    def is_held(self, tensor: int) -> bool:
        """Whether the store has it by now."""
        return self._stored is not None and self._stored.is_held(tensor)
