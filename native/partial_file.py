# SPDX-License-Identifier: MIT
"""The file of a model as a stage reads it: llama.cpp asks for every tensor, and those of other layers stay unread.

Called while a stage loads, on the loading thread. What a skipped tensor holds is never looked at: it lies on a wire.
A needed one may come while the load is under way (`Weights`): it is waited for when llama.cpp first reads it.
Reading, skipping and waiting is done in native/src/partial_file.cpp.
"""

from __future__ import annotations

import ctypes as c
import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from native.errors import ModelFileError
from native.layout import ModelLayout, TensorLayout
from native.library import PartialStruct, ProvideCallback, RangeStruct, wire
from native.placement import is_mapped, tensors_elsewhere
from native.ranges import LayerRange

_NO_DESCRIPTOR = -1


class Weights(Protocol):
    """A model's tensors, some of which may still be on their way. Called on the loading thread."""

    def descriptor(self, tensor: TensorLayout) -> int:
        """Of an open file that has the tensor where the model's own has it; blocks until it is there.

        It must stay open until the load is over. What this raises, the load fails with.
        """

    def path(self, tensors: Collection[TensorLayout]) -> Path:
        """Of the model's (first) file that has all of these; blocks until it does. What it raises, the load fails with.

        All other tensors may be anything there.
        """


@dataclass(slots=True)
class PartialFile:
    """An open file, for llama_model_load_from_file_ptr, of which `own_bytes` at most are read.

    `failure` is what a tensor that was waited for could not be had for.
    """

    handle: int
    n_header: int
    own_bytes: int
    skipped: frozenset[TensorLayout]
    failure: BaseException | None = field(default=None)

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


def can_be_streamed(layout: ModelLayout) -> bool:
    """Whether llama.cpp can take all of a model from one stream: that is one file, and is not mapped."""
    return len(layout.files) == 1 and not any(map(is_mapped, layout.tensors))


@contextmanager
def open_partly(
    layout: ModelLayout, layers: LayerRange, weights: Weights | None = None
) -> Iterator[PartialFile | None]:
    """Opens a model's file for a stage of these layers; None where it has to be loaded from its path, as a whole.

    With `weights` each tensor comes from where they say; the header comes from the layout's own file.

    Raises:
        ModelFileError: the file cannot be opened any more, or is another than when its header was read.
    """
    skipped = tensors_elsewhere(layout, layers)
    if not can_be_streamed(layout) or not (skipped or weights):
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
        own_bytes = n_header + layout.n_bytes - sum(tensor.n_bytes for tensor in skipped)
        partial = PartialFile(0, n_header, own_bytes, skipped)
        provide = ProvideCallback() if weights is None else _provider(partial, tensors, weights)
        handle = wire().caravan_partial_open(
            file.fileno(), PartialStruct(header, n_header, array, len(ranges), provide)
        )
        if handle is None:
            yield None
            return
        partial.handle = handle
        try:
            yield partial
        finally:
            wire().caravan_partial_close(handle)


def _provider(partial: PartialFile, tensors: list[TensorLayout], weights: Weights) -> c._CFunctionType:
    """What the reader calls; an exception cannot pass through C, so it is kept for whoever called the load."""

    def provide(number: int) -> int:
        try:
            return weights.descriptor(tensors[number])
        except BaseException as error:
            partial.failure = error
            return _NO_DESCRIPTOR

    return ProvideCallback(provide)
