# SPDX-License-Identifier: MIT
"""Models that other programs keep on this machine: LM Studio and llama.cpp, in files by their own names. Ollama's are
in `ollama`, the hub's own in `hub`. Only looks whether files are there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from coordinator.weights.references import part_names

_MAX_SEEN = 20_000
"""Files looked at in such a folder: one that is a whole disk is not searched for minutes."""


def hub_file_elsewhere(repo_id: str, files: Sequence[tuple[str, int]]) -> Path | None:
    """The first of a repository's files (path there, and size) if some program has all of them, each of that size."""
    for folder, names in _places(repo_id, [path for path, _ in files]):
        paths = [folder / name for name in names]
        try:
            sizes = [path.stat().st_size for path in paths]
        except OSError:
            continue
        if sizes == [n_bytes for _, n_bytes in files]:
            return paths[0]
    return None


def files_named(file_name: str) -> list[Path]:
    """Where some program has a file of that name; of a split model its first."""
    first = part_names(file_name)[0]
    return [
        path
        for folder in (*_lm_studio(), *_llama_cpp())
        for path in _files_in(folder)
        if path.name in (file_name, first) or path.name.endswith(f"_{file_name}")
    ]


def _places(repo_id: str, paths: Sequence[str]) -> Iterator[tuple[Path, list[str]]]:
    """Folders, and the names that the files would have in them."""
    names = [PurePosixPath(path).name for path in paths]
    for folder in _lm_studio():
        yield folder / repo_id, names
        yield folder / repo_id, list(paths)
    for folder in _llama_cpp():
        # Source: common_params_handle_model in llama.cpp's common/arg.cpp, until it took to the hub's own cache.
        yield folder, [f"{repo_id}_{path}".replace("/", "_") for path in paths]


def _lm_studio() -> list[Path]:
    home = Path.home()
    return [home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"]


def _llama_cpp() -> list[Path]:
    """Source: fs_get_cache_directory in llama.cpp's common/common.cpp."""
    given = os.environ.get("LLAMA_CACHE")
    if given:
        return [Path(given)]
    if sys.platform == "darwin":
        return [Path.home() / "Library" / "Caches" / "llama.cpp"]
    if sys.platform == "win32":
        return [Path(os.environ.get("LOCALAPPDATA", Path.home())) / "llama.cpp"]
    return [Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama.cpp"]


def _files_in(folder: Path) -> Iterator[Path]:
    seen = 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            seen += 1
            if seen > _MAX_SEEN:
                return
            if name.endswith(".gguf"):
                yield Path(parent) / name
