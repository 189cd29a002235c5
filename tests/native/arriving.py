# SPDX-License-Identifier: MIT
"""Weights that are not there before they are asked for."""

import os
from collections.abc import Collection
from pathlib import Path

from native import TensorLayout, read_layout


class Arriving:
    """Copies a tensor from the model's files into sparse ones of the same layout when it is asked for."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.layout = read_layout(model)
        self.asked: list[TensorLayout] = []
        self.paths = [folder / file.name for file in self.layout.files]
        folder.mkdir()
        first_bytes = [min(t.offset_bytes for t in self.layout.tensors if t.file_index == i) for i in self._numbers]
        for source, path, n_header in zip(self.layout.files, self.paths, first_bytes, strict=True):
            path.write_bytes(source.read_bytes()[:n_header])
            os.truncate(path, source.stat().st_size)
        self.files = [path.open("r+b") for path in self.paths]

    @property
    def _numbers(self) -> range:
        return range(len(self.layout.files))

    def __enter__(self) -> "Arriving":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files:
            file.close()

    def descriptor(self, tensor: TensorLayout) -> int:
        self.asked.append(tensor)
        with self.layout.files[tensor.file_index].open("rb") as source:
            data = os.pread(source.fileno(), tensor.n_bytes, tensor.offset_bytes)
        fd = self.files[tensor.file_index].fileno()
        os.pwrite(fd, data, tensor.offset_bytes)
        return fd

    def path(self, tensors: Collection[TensorLayout]) -> Path:
        for tensor in tensors:
            self.descriptor(tensor)
        return self.paths[0]
