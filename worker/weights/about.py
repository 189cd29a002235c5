# SPDX-License-Identifier: MIT
"""What a model of the store is, in a small file of its folder: enough to list it without reading its header."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.weights.model_folder import ABOUT_FILE
from worker.weights.parts import Part


class DamagedModelError(Exception):
    """A model's folder does not hold what it should."""


@dataclass(frozen=True, slots=True)
class About:
    """A model: its name, its files as they were offered, and its tensors' number and bytes."""

    name: str
    parts: tuple[Part, ...]
    n_tensors: int
    n_bytes: int

    @classmethod
    def read(cls, folder: Path) -> "About":
        """Raises DamagedModelError."""
        try:
            match json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8")):
                case {
                    "name": str(name),
                    "parts": [_, *_] as parts,
                    "n_tensors": int(n_tensors),
                    "n_bytes": int(n_bytes),
                }:
                    return cls(name, tuple(map(_part, parts)), n_tensors, n_bytes)
        except (OSError, ValueError) as error:
            raise DamagedModelError(f"its {ABOUT_FILE} cannot be read ({error})") from error
        raise DamagedModelError(f"its {ABOUT_FILE} is not one of ours")

    def write(self, folder: Path) -> None:
        """Raises OSError."""
        (folder / ABOUT_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")


def _part(fields: object) -> Part:
    match fields:
        case {"file_name": str(name), "n_bytes": int(n_bytes), "n_header_bytes": int(n_header_bytes)}:
            return Part(name, n_bytes, n_header_bytes)
    raise ValueError(f"{fields} is no part")
