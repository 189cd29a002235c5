# SPDX-License-Identifier: MIT
"""What a person may write for a model, as a file: "demo" (the small model inside this package) or a path to a GGUF, of
a split model any of its parts. Pure but for looking whether files are there.
"""

from __future__ import annotations

import importlib.resources
import re
from dataclasses import dataclass
from pathlib import Path

from coordinator.errors import ModelError, ModelNotFoundError

DEMO = "demo"

_PART = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<total>\d{5})\.gguf")
"""llama.cpp's name for a part of a split model (llama_split_path)."""


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
    part = _PART.fullmatch(path.name)
    name = part["stem"] if part else path.stem
    if part:
        path = path.with_name(f"{name}-00001-of-{part['total']}.gguf")
    if path.is_dir():
        inside = ", ".join(sorted(file.name for file in path.glob("*.gguf"))[:5])
        raise ModelError(f"{path} is a folder: name a GGUF file" + (f" in it, such as {inside}" if inside else ""))
    if not path.exists():
        raise ModelNotFoundError(f"there is no file {path}: give the path of a GGUF file, or {DEMO!r}")
    return ModelFile(name, path.resolve())


def _demo() -> ModelFile:
    path = Path(str(importlib.resources.files("coordinator") / "models" / "demo.gguf"))
    if not path.is_file():
        raise ModelNotFoundError(f"the demo model is not in this installation: {path} is missing; install again")
    return ModelFile(DEMO, path)
