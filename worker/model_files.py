# SPDX-License-Identifier: MIT
"""Finds the GGUF that a stage is of: at the coordinator's path, else by its file name in this worker's folders.

A file of the right name is not enough: its header must be the coordinator's, byte for byte (its identity). Called
on gRPC's threads; reads headers only.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from native import LayerRange, ModelLayout, check_splittable, read_layout
from worker.errors import BadRequestError, IdentityMismatchError, ModelNotHereError
from worker.session import StageSpec


class ModelFiles:
    """The GGUF files this worker can read."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """`folders` are searched in order, not below."""
        self._folders = tuple(folders)

    def find(self, spec: StageSpec) -> ModelLayout:
        """The layout of the file meant by `spec`, checked to be splittable into its layers.

        Raises:
            ModelNotHereError: it is at none of the places; names them.
            IdentityMismatchError: a file of that name is there, with other contents.
            BadRequestError: layers beyond the model's.
            ModelFileError, UnsupportedModelError: the file is damaged, or cannot be split.
        """
        paths = [path for path in self._candidates(spec.path) if path.is_file()]
        if not paths:
            raise ModelNotHereError(self._not_here(spec.path))
        layouts = [read_layout(path) for path in paths]
        for layout in layouts:
            if layout.identity == spec.identity:
                _check_layers(layout, spec.layers)
                return layout
        raise IdentityMismatchError(
            f"{paths[0]} on this worker is another file than the coordinator's"
            f" (identity {layouts[0].identity[:12]}, not {spec.identity[:12]}); copy the same file here"
        )

    def _candidates(self, path: str) -> list[Path]:
        name = _file_name(path)
        return [Path(path).expanduser(), *(folder / name for folder in self._folders)]

    def _not_here(self, path: str) -> str:
        places = [path, *(str(folder) for folder in self._folders)]
        return (
            f"no {_file_name(path)} on this worker (looked at {', '.join(places)}); copy the model here,"
            " or name its folder with --models"
        )


def _file_name(path: str) -> str:
    """The last part of a path that may come from a machine of the other kind."""
    return PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name


def _check_layers(layout: ModelLayout, layers: LayerRange) -> None:
    if layers.end > layout.n_layer:
        raise BadRequestError(f"layers {layers} were asked for, and {layout.path.name} has {layout.n_layer}")
    if len(layers) < layout.n_layer:
        check_splittable(layout)
