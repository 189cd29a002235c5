# SPDX-License-Identifier: MIT
"""Finds the model that a stage is of, by its identity: at the coordinator's path, below this worker's folders, or in
its store. What it is called does not matter. Called on gRPC's threads; reads headers only.
"""

from pathlib import PurePosixPath, PureWindowsPath

from native import LayerRange, ModelLayout, check_splittable
from native.placement import tensors_elsewhere
from worker.errors import BadRequestError, IdentityMismatchError, ModelNotHereError
from worker.session import StageSpec
from worker.weights.files import LocalFiles
from worker.weights.store import ModelStore


class ModelFiles:
    """The models this worker can read, or knows the header of."""

    def __init__(self, files: LocalFiles, store: ModelStore) -> None:
        self.files = files
        self.store = store

    def find(self, spec: StageSpec) -> ModelLayout:
        """The layout of the model meant by `spec`, checked to be splittable into its layers.

        Its weights may be holes in a file of the store: that is enough to know what a stage takes, and how long it
        computes, since the speed of a step does not depend on the values in it.

        Raises:
            ModelNotHereError: it is at none of the places; names them.
            IdentityMismatchError: a file of that name is there, with other contents.
            BadRequestError: layers beyond the model's.
            ModelFileError, UnsupportedModelError: the file is damaged, or cannot be split.
            StoreUnusableError: the store cannot be looked at.
        """
        layout = self.files.find(spec.identity, spec.path)
        if layout is None:
            stored = self.store.find(spec.identity)
            layout = None if stored is None else stored.layout
        if layout is None:
            raise self._not_found(spec)
        _check_layers(layout, spec.layers)
        return layout

    def find_whole(self, spec: StageSpec) -> ModelLayout:
        """The same, where the weights of the layers are there too.

        Raises:
            As `find`; ModelNotHereError for weights that are missing.
        """
        layout = self.find(spec)
        stored = self.store.find(spec.identity) if layout.path.is_relative_to(self.store.folder) else None
        if stored is None:
            return layout
        skipped, held = tensors_elsewhere(layout, spec.layers), stored.held()
        missing = [tensor for at, tensor in enumerate(layout.tensors) if tensor not in skipped and at not in held]
        if missing:
            raise ModelNotHereError(
                f"{len(missing)} tensors of {layout.name}, {missing[0].name} among them, are not on this worker yet"
            )
        return layout

    def _not_found(self, spec: StageSpec) -> Exception:
        """Raises ModelFileError, if that is why."""
        name = _file_name(spec.path)
        others = self.files.named(spec.path, name)
        if others:
            return IdentityMismatchError(
                f"{others[0].path} on this worker is another file than the coordinator's"
                f" (identity {others[0].identity[:12]}, not {spec.identity[:12]}); copy the same file here"
            )
        places = [spec.path, *(str(folder) for folder in self.files.folders)]
        return ModelNotHereError(
            f"no {name} on this worker (looked at {', '.join(places)}); copy the model here,"
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
