# SPDX-License-Identifier: MIT
"""Reading a source as those do that give from it."""

from __future__ import annotations

from coordinator.weights.cancellation import Cancellation
from coordinator.weights.source import WeightSource


def read_tensor(source: WeightSource, name: str, *, piece: int = 1 << 20) -> bytes:
    """A tensor's bytes, piece by piece."""
    (tensor,) = [tensor for tensor in source.layout.tensors if tensor.name == name]
    data = bytearray(tensor.n_bytes)
    end = tensor.offset_bytes + tensor.n_bytes
    with source.reader(Cancellation()) as reader:
        for start in range(0, tensor.n_bytes, piece):
            view = memoryview(data)[start : start + piece]
            reader.read_into(tensor.file_index, tensor.offset_bytes + start, view, until=end)
    return bytes(data)


def true_tensor(source: WeightSource, name: str, file: bytes) -> bytes:
    """The same from the whole file's bytes."""
    (tensor,) = [tensor for tensor in source.layout.tensors if tensor.name == name]
    return file[tensor.offset_bytes : tensor.offset_bytes + tensor.n_bytes]
