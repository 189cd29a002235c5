# SPDX-License-Identifier: MIT
"""Models that lie on this machine, or on a drive that it has, outside of the store: at the coordinator's path, or below
this worker's folders, whatever they are called. Any thread.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from native import ModelLayout, NativeError
from protos.weights import file_stamp
from worker.weights.local_file import LocalFile
from worker.weights.parts import Part
from worker.weights.scan import Scan

_MEMORY_FOLDER = ".files"
_HEADERS_FILE = "headers.json"
# Of the logs that say what of a file is verified; each has some 100 KB.
_MAX_LOGS = 200


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
        for candidate in (*_file_at(path), *self._scan.paths(fresh=fresh)):
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
        paths = _file_at(path)
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


def _file_at(path: str) -> list[Path]:
    """The file at a path that a stranger names; none where there is none, or where no file can be."""
    try:
        there = Path(path).expanduser()
        return [there] if there.is_file() else []
    except (OSError, RuntimeError, ValueError):
        # A name that is too long, say, or somebody's home who is not known here.
        return []


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
