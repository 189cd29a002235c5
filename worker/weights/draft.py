# SPDX-License-Identifier: MIT
"""A model that is being made known to the store: its headers as they come, until they are found to be what they should.

Made under a name that nobody looks at. Sizes are a stranger's: nothing is allocated or written by them before the
headers have come, and those are parsed without what would follow.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from native import ModelFileError, ModelFileNotFoundError, ModelLayout, read_layout
from protos.sizes import size
from worker.errors import BadRequestError, DiskFullError
from worker.weights import disk
from worker.weights.about import About
from worker.weights.locks import FileLock
from worker.weights.model_folder import CLAIMS_FOLDER, DRAFT_PREFIX, PARTS_FOLDER, USE_FILE
from worker.weights.parts import Part


@dataclass(frozen=True, slots=True)
class HeaderChunk:
    """The next bytes of a part's header; parts come in order."""

    part: int
    data: bytes


class Draft:
    """A model's folder in the making. Whoever makes it holds `lock`, so that nobody takes it for a left-over."""

    def __init__(self, folder: Path, identity: str, parts: Sequence[Part]) -> None:
        """Begins one in the store's `folder`. Raises OSError."""
        self.identity = identity
        self.parts = tuple(parts)
        self.folder, self.lock = _begin(folder)
        (self.folder / PARTS_FOLDER).mkdir()
        (self.folder / CLAIMS_FOLDER).mkdir()

    def fill(self, chunks: Iterable[HeaderChunk]) -> bool:
        """Takes the headers, and checks them; False: the file system keeps no holes, so that all of it is taken.

        Raises:
            BadRequestError: they are not that model's, or not as offered.
            ModelFileError: they are no GGUF's.
            DiskFullError: its files cannot be that long here.
            OSError: something cannot be written.
        """
        self._take(chunks)
        layout = self._check()
        about = About(layout.name, self.parts, len(layout.tensors), layout.n_bytes)
        about.write(self.folder)
        had_holes = [self._lengthen(part) for part in self.parts]
        return all(had_holes)

    def header(self, part: Part) -> bytes:
        """What `fill` took. Raises OSError."""
        with self._path(part).open("rb") as file:
            return file.read(part.n_header_bytes)

    def _path(self, part: Part) -> Path:
        return self.folder / PARTS_FOLDER / part.file_name

    def _take(self, chunks: Iterable[HeaderChunk]) -> None:
        digest = hashlib.sha256()
        remaining = iter(chunks)
        for index, part in enumerate(self.parts):
            n_bytes = 0
            with self._path(part).open("xb") as file:
                while n_bytes < part.n_header_bytes:
                    chunk = next(remaining, None)
                    if chunk is None or chunk.part != index or not chunk.data:
                        raise BadRequestError(f"the header of {part.file_name} ends after {n_bytes} bytes")
                    n_bytes += len(chunk.data)
                    if n_bytes > part.n_header_bytes:
                        raise BadRequestError(
                            f"the header of {part.file_name} has more than the {part.n_header_bytes} bytes offered"
                        )
                    file.write(chunk.data)
                    digest.update(chunk.data)
        if next(remaining, None) is not None:
            raise BadRequestError("there is more than the model's headers")
        if digest.hexdigest() != self.identity:
            raise BadRequestError(
                f"what came is the header of another model (identity {digest.hexdigest()[:12]}, not"
                f" {self.identity[:12]})"
            )

    def _check(self) -> ModelLayout:
        try:
            layout = read_layout(self._path(self.parts[0]), [part.n_bytes for part in self.parts])
        except ModelFileNotFoundError as error:
            raise BadRequestError(f"the model has a part {error.path.name} that was not offered") from error
        except ModelFileError as error:
            raise ModelFileError(error.path.name, error.reason) from error
        if layout.identity != self.identity or layout.files != tuple(map(self._path, self.parts)):
            raise BadRequestError(f"the files of {self.parts[0].file_name} are others than offered")
        return layout

    def _lengthen(self, part: Part) -> bool:
        try:
            return disk.lengthen(self._path(part), part.n_bytes)
        except OSError as error:
            free_bytes = disk.free_bytes(self.folder)
            raise DiskFullError(
                f"{part.file_name} of {size(part.n_bytes)} cannot lie in {self.folder.parent}"
                f" ({os.strerror(error.errno or 0)}); name a folder on another disk with CARAVAN_CACHE",
                needed_bytes=part.n_bytes,
                free_bytes=free_bytes,
            ) from error


def _begin(folder: Path) -> tuple[Path, FileLock]:
    """A new folder, locked; in the moment before that it may be taken for a left-over."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=DRAFT_PREFIX, dir=folder))
        with contextlib.suppress(FileNotFoundError):
            lock = FileLock.take(made / USE_FILE)
            if lock is not None:
                return made, lock
