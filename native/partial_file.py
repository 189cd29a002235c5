# SPDX-License-Identifier: MIT
"""The file of a model as a stage reads it: llama.cpp asks for every tensor, and those of other layers stay unread.

Called while a stage loads, on the loading thread. What a skipped tensor holds is never looked at: it lies on a wire.
Reading and skipping is done in native/src/partial_file.cpp.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from native.errors import ModelFileError
from native.layout import ModelLayout, TensorLayout
from native.library import PartialStruct, RangeStruct, wire
from native.ranges import LayerRange

# llama.cpp maps a larger table of no layer, where it can, instead of reading it, and a stream cannot be mapped.
# Source: llama_model_loader::lazy_read::add in src/llama-model-loader.cpp, which all but two architectures never call.
_MAPPED_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class PartialFile:
    """An open file, for llama_model_load_from_file_ptr, of which `own_bytes` at most are read."""

    handle: int
    n_header: int
    own_bytes: int

    @property
    def stream(self) -> int:
        """The FILE*."""
        return int(wire().caravan_partial_stream(self.handle))

    @property
    def read_bytes(self) -> int:
        """Bytes read so far, the header's included."""
        return self.n_header + int(wire().caravan_partial_read_bytes(self.handle))

    @property
    def skipped_bytes(self) -> int:
        """Bytes that llama.cpp asked for and that were not read, so far."""
        return int(wire().caravan_partial_skipped_bytes(self.handle))

    @property
    def fraction_read(self) -> float:
        """How much of the own bytes has been read; an output that shares the embedding's weights is read twice."""
        return min(1.0, self.read_bytes / self.own_bytes)


def tensors_to_skip(layout: ModelLayout, layers: LayerRange) -> frozenset[TensorLayout]:
    """Tensors that a stage of these layers does not need.

    Only those named after a layer of another stage (blocks behind the last layer are the last stage's): whatever else
    a model has is read. None of a model in several files, since llama.cpp takes one stream, nor of one that it maps.
    """
    is_mapped = any(tensor.layer is None and tensor.n_bytes > _MAPPED_BYTES for tensor in layout.tensors)
    if len(layout.files) > 1 or is_mapped:
        return frozenset()
    end = layout.n_block if layers.end == layout.n_layer else layers.end
    return frozenset(t for t in layout.tensors if t.layer is not None and not layers.start <= t.layer < end)


@contextmanager
def open_partly(layout: ModelLayout, layers: LayerRange) -> Iterator[PartialFile | None]:
    """Opens a model's file for a stage of these layers; None where it has to be loaded from its path, as a whole.

    Raises:
        ModelFileError: the file cannot be opened any more, or is another than when its header was read.
    """
    skipped = tensors_to_skip(layout, layers)
    if not skipped:
        yield None
        return
    tensors = sorted((t for t in layout.tensors if t.n_bytes), key=lambda tensor: tensor.offset_bytes)
    n_header = min(tensor.offset_bytes for tensor in layout.tensors)
    try:
        file = layout.path.open("rb")
    except OSError as error:
        raise ModelFileError(layout.path, f"cannot be read: {error.strerror}") from None
    with file:
        header = file.read(n_header)
        if hashlib.sha256(header).hexdigest() != layout.identity:
            raise ModelFileError(layout.path, "the file changed while it was being loaded; try again")
        ranges = [RangeStruct(t.offset_bytes, t.offset_bytes + t.n_bytes, t not in skipped) for t in tensors]
        array = (RangeStruct * len(ranges))(*ranges)
        handle = wire().caravan_partial_open(file.fileno(), PartialStruct(header, n_header, array, len(ranges)))
        if handle is None:
            yield None
            return
        own_bytes = n_header + layout.n_bytes - sum(tensor.n_bytes for tensor in skipped)
        try:
            yield PartialFile(handle, n_header, own_bytes)
        finally:
            wire().caravan_partial_close(handle)
