# SPDX-License-Identifier: MIT
"""Models that coordinators offered to this worker: what is here of them, and where. Any thread."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worker.errors import BadRequestError
from worker.weights.draft import HeaderChunk
from worker.weights.files import LocalFiles
from worker.weights.parts import Part, check_parts, is_identity
from worker.weights.store import ModelStore

# A coordinator uses one model; this is for those that come and go.
_MAX_REMEMBERED = 64
# More than any system takes.
_MAX_PATH_LENGTH = 32 << 10


@dataclass(frozen=True, slots=True)
class Here:
    """What is here of a model: whether its header is, and for each tensor whether that is."""

    has_header: bool
    held: tuple[bool, ...]


class Offers:
    """The models that were offered lately."""

    def __init__(self, store: ModelStore, files: LocalFiles) -> None:
        self._store = store
        self._files = files
        self._lock = threading.Lock()
        self._offered: dict[str, tuple[str, tuple[Part, ...]]] = {}

    def offer(self, identity: str, path: str, parts: Sequence[Part]) -> Here:
        """Takes note of a model, and says what is here of it.

        Raises:
            BadRequestError: no model is like that.
            StoreUnusableError: the store cannot be looked at.
        """
        if not is_identity(identity):
            raise BadRequestError(f"{identity!r} is no model's identity, which is a SHA-256 in hexadecimal digits")
        if len(path) > _MAX_PATH_LENGTH:
            raise BadRequestError(f"a model is offered at a path of {len(path)} letters: no path has so many")
        check_parts(parts)
        with self._lock:
            self._offered.pop(identity, None)
            self._offered[identity] = path, tuple(parts)
            while len(self._offered) > _MAX_REMEMBERED:
                del self._offered[next(iter(self._offered))]
        layout = self._files.find(identity, path, fresh=True)
        self._files.save()
        if layout is not None:
            return Here(has_header=True, held=(True,) * len(layout.tensors))
        model = self._store.find(identity)
        if model is None:
            return Here(has_header=False, held=())
        held = model.held()
        return Here(has_header=True, held=tuple(tensor in held for tensor in range(len(model.layout.tensors))))

    def put_header(self, identity: str, chunks: Iterable[HeaderChunk]) -> None:
        """Takes the headers of an offered model into the store.

        Raises:
            BadRequestError: it was not offered; and all else that ModelStore.create raises.
        """
        parts = self.parts(identity)
        if not parts:
            raise BadRequestError(f"a model {identity[:12]!r} was not offered to this worker; offer it first")
        self._store.create(identity, parts, chunks)

    def parts(self, identity: str) -> tuple[Part, ...]:
        """As they were offered; none: it was not."""
        return self._get(identity)[1]

    def path(self, identity: str) -> str:
        """Where the coordinator has it; empty: it was not offered."""
        return self._get(identity)[0]

    def _get(self, identity: str) -> tuple[str, tuple[Part, ...]]:
        with self._lock:
            return self._offered.get(identity, ("", ()))
