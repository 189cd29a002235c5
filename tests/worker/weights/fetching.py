# SPDX-License-Identifier: MIT
"""What the tests of the store bring into it: tensors of a model's file, in pieces, as a fetch would."""

import random
from pathlib import Path

from blake3 import blake3

from native import ModelLayout, read_layout
from worker.weights.draft import HeaderChunk
from worker.weights.parts import Part
from worker.weights.store import ModelStore
from worker.weights.stored_model import StoredModel
from worker.weights.writer import TensorWriter


class Source:
    """A model's file, and what a coordinator says of it."""

    def __init__(self, path: Path) -> None:
        self.layout: ModelLayout = read_layout(path)
        self.data = [path.read_bytes() for path in self.layout.files]
        self.parts = [
            Part(path.name, len(data), n_bytes)
            for path, data, n_bytes in zip(self.layout.files, self.data, self.layout.header_bytes, strict=True)
        ]

    @property
    def n_tensors(self) -> int:
        """How many there are."""
        return len(self.layout.tensors)

    def tensor(self, tensor: int) -> memoryview:
        """Its bytes."""
        about = self.layout.tensors[tensor]
        return memoryview(self.data[about.file_index])[about.offset_bytes : about.offset_bytes + about.n_bytes]

    def hash(self, tensor: int) -> bytes:
        """Of a tensor."""
        return blake3(self.tensor(tensor)).digest()

    def chunks(self, chunk_bytes: int = 1000) -> list[HeaderChunk]:
        """The headers."""
        return [
            HeaderChunk(index, data[at : min(at + chunk_bytes, n_bytes)])
            for index, (data, n_bytes) in enumerate(zip(self.data, self.layout.header_bytes, strict=True))
            for at in range(0, n_bytes, chunk_bytes)
        ]

    def write(self, writer: TensorWriter, tensor: int, *, piece_bytes: int = 1 << 20, order: random.Random) -> int:
        """Writes what is missing of a tensor, in pieces in any order; how many bytes that were."""
        gaps = writer.missing()
        pieces = [(at, min(at + piece_bytes, end)) for start, end in gaps for at in range(start, end, piece_bytes)]
        order.shuffle(pieces)
        for start, end in pieces:
            assert writer.write(start, self.tensor(tensor)[start:end])
        return sum(end - start for start, end in pieces)

    def fetch(self, model: StoredModel, *tensors: int) -> None:
        """Brings tensors into the store, all of them without a number."""
        for tensor in tensors or range(self.n_tensors):
            writer = model.begin(tensor)
            assert writer is not None
            with writer:
                self.write(writer, tensor, piece_bytes=1500, order=random.Random(tensor))
                writer.finish(self.hash(tensor))

    def wrong(self, model: StoredModel) -> list[int]:
        """Tensors that the model says it holds and whose bytes are others."""
        files = [path.read_bytes() for path in model.layout.files]
        tensors = model.layout.tensors
        return [
            tensor
            for tensor in model.held()
            if files[tensors[tensor].file_index][tensors[tensor].offset_bytes :][: tensors[tensor].n_bytes]
            != self.tensor(tensor)
        ]


def create(store: ModelStore, source: Source) -> StoredModel:
    """The model, known to the store."""
    return store.create(source.layout.identity, source.parts, source.chunks())


def left_over(store: ModelStore) -> list[str]:
    """What lies in the store's folder beside models."""
    return [path.name for path in store.folder.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def flip(path: Path, at: int) -> None:
    """One bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))
