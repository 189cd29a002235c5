# SPDX-License-Identifier: MIT
"""A model in a file of this machine: "demo" (the small model inside this package) or a path to a GGUF, of a split model
any of its parts. Pure but for looking whether files are there; what else a model may be called is in
`weights.references`.
"""

from __future__ import annotations

import importlib.resources
import os
from dataclasses import dataclass
from pathlib import Path

from coordinator.errors import ModelError, ModelNotFoundError
from coordinator.weights.references import DEMO, part_names, stem_of


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's first (or only) file, and what to call the model."""

    name: str
    path: Path


def resolve_model(reference: str | Path) -> ModelFile:
    """The file meant by `reference`.

    Raises:
        ModelNotFoundError: There is no such file.
        ModelError: It is a folder.
    """
    if reference == DEMO and not Path(DEMO).is_file():
        return _demo()
    path = Path(reference).expanduser()
    path = path.with_name(part_names(path.name)[0]) if path.name else path
    if path.is_dir():
        inside = ", ".join(sorted(file.name for file in path.glob("*.gguf"))[:5])
        raise ModelError(f"{path} is a folder: name a GGUF file" + (f" in it, such as {inside}" if inside else ""))
    if not path.exists():
        raise ModelNotFoundError(f"there is no file {path}: give the path of a GGUF file, or {DEMO!r}")
    # Links are not followed: a cache may hold the parts of a split model under other names.
    return ModelFile(stem_of(path.name), Path(os.path.abspath(path)))


def _demo() -> ModelFile:
    path = Path(str(importlib.resources.files("coordinator") / "models" / "demo.gguf"))
    if not path.is_file():
        raise ModelNotFoundError(f"the demo model is not in this installation: {path} is missing; install again")
    return ModelFile(DEMO, path)
