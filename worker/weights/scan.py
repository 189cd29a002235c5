# SPDX-License-Identifier: MIT
"""Which model each GGUF file below some folders is, by its header; remembered by what the system says of a file, so
that a folder of a hundred models is read once. Any thread.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from native import ModelFileNotFoundError, ModelLayout, NativeError, read_layout
from protos.cache_folder import write_whole
from worker.weights.parts import is_identity

_LOG = logging.getLogger(__name__)

# Folders are looked through again after this long, or when a coordinator offers a model.
_FRESH_S = 5.0
# Of what is remembered: far more than anybody has.
_MAX_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class Mark:
    """A file as it is: another mark means other bytes. Unlike `file_stamp` it outlives a start of the machine."""

    path: str
    inode: int
    n_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "Mark":
        """Raises OSError."""
        about = path.stat()
        return cls(str(path), about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a header said; `identity` None: that it is no model's first file. `marks` of all the model's files."""

    identity: str | None
    marks: tuple[Mark, ...]


class Scan:
    """Files and what models they are."""

    def __init__(self, folders: Sequence[Path], memory: Path) -> None:
        """Looks below `folders`, and keeps what it learnt in the file `memory`, if it can."""
        self._folders = tuple(folders)
        self._memory = memory
        self._lock = threading.Lock()
        self._known: dict[str, _Known] | None = None
        self._is_saved = True
        self._layouts: dict[str, tuple[_Known, ModelLayout]] = {}
        self._scanned_at = -_FRESH_S
        self._paths: tuple[Path, ...] = ()

    def paths(self, *, fresh: bool) -> tuple[Path, ...]:
        """All GGUF files below the folders, in their order; `fresh`: as they are now, not a few seconds ago."""
        with self._lock:
            if fresh or time.monotonic() >= self._scanned_at + _FRESH_S:
                self._paths = tuple(_gguf_files(self._folders))
                self._scanned_at = time.monotonic()
            return self._paths

    def identity(self, path: Path) -> str | None:
        """Of the model whose first file that is; None: it is none. Reads the header of a file that is new."""
        with self._lock:
            return self._look(path).identity

    def layout(self, path: Path) -> ModelLayout:
        """What `path`'s header says now.

        Raises:
            ModelFileError: it is no usable GGUF.
        """
        with self._lock:
            known = self._current(path)
            if str(path) in self._layouts and self._layouts[str(path)][0] == known:
                return self._layouts[str(path)][1]
        layout = read_layout(path)
        with self._lock, contextlib.suppress(OSError):
            known = _Known(layout.identity, tuple(map(Mark.of, layout.files)))
            self._learn(path, known)
            self._layouts[str(path)] = (known, layout)
        return layout

    def save(self) -> None:
        """Keeps what was learnt; losing it costs reading headers again, so no trouble with it is an error."""
        with self._lock:
            if self._is_saved:
                return
            self._is_saved = True
            # Others may have learnt more since.
            known = _read(self._memory) | (self._known or {})
            entries = {
                path: [entry.identity, [[m.path, m.inode, m.n_bytes, m.modified_ns, m.changed_ns] for m in entry.marks]]
                for path, entry in list(known.items())[-_MAX_KNOWN:]
            }
            with contextlib.suppress(OSError):
                write_whole(self._memory, json.dumps(entries))

    def _look(self, path: Path) -> _Known:
        known = self._current(path)
        if known is not None:
            return known
        try:
            layout = read_layout(path)
            known = _Known(layout.identity, tuple(map(Mark.of, layout.files)))
            self._layouts[str(path)] = (known, layout)
        except (ModelFileNotFoundError, OSError):
            # A part is missing, or it goes while we look: that may be otherwise the next time.
            return _Known(None, ())
        except NativeError as error:
            _LOG.debug("%s is no model that could be used: %s", path, error)
            with contextlib.suppress(OSError):
                self._learn(path, _Known(None, (Mark.of(path),)))
            return _Known(None, ())
        self._learn(path, known)
        return known

    def _current(self, path: Path) -> _Known | None:
        """What is known of a file that is as it was."""
        if self._known is None:
            self._known = _read(self._memory)
        known = self._known.get(str(path))
        try:
            is_same = (
                known is not None and known.marks and all(Mark.of(Path(mark.path)) == mark for mark in known.marks)
            )
        except OSError:
            return None
        return known if is_same else None

    def _learn(self, path: Path, known: _Known) -> None:
        assert self._known is not None, "what is known is read before something is learnt"
        # The last learnt is the last: the first are forgotten when there are too many.
        self._known.pop(str(path), None)
        self._is_saved = False
        self._known[str(path)] = known


def _gguf_files(folders: Sequence[Path]) -> Iterator[Path]:
    """Below each folder, links followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    for top in folders:
        for folder, subfolders, names in os.walk(top, followlinks=True):
            try:
                about = os.stat(folder)
            except OSError:
                subfolders.clear()
                continue
            if (about.st_dev, about.st_ino) in seen:
                subfolders.clear()
                continue
            seen.add((about.st_dev, about.st_ino))
            # A model of a store looks like a whole one, and is full of holes.
            subfolders[:] = sorted(name for name in subfolders if not is_identity(name))
            yield from (Path(folder, name) for name in sorted(names) if name.lower().endswith(".gguf"))


def _read(memory: Path) -> dict[str, _Known]:
    """What was kept; nothing of what we did not write."""
    try:
        entries = json.loads(memory.read_text(encoding="utf-8"))
        return {
            path: _Known(identity, tuple(Mark(*mark) for mark in marks)) for path, (identity, marks) in entries.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        _LOG.warning("model headers are read anew: %s cannot be read (%s)", memory, error)
        return {}
