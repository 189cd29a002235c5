# SPDX-License-Identifier: MIT
"""Several cards of one machine that hold one stage together: the ways to share it, and what llama.cpp is given for
them. Called while a stage loads.
"""

from __future__ import annotations

import ctypes as c
from dataclasses import dataclass
from enum import Enum

from native.devices import buffer_type_of, handle_of, registry_of
from native.joined import JoinedCards
from native.layout import ModelLayout
from native.library import declare, ggml_base
from native.ranges import LayerRange

_procedure = declare(ggml_base, "ggml_backend_reg_get_proc_address", c.c_void_p, c.c_void_p, c.c_char_p)

# How a backend offers buffers whose rows lie on several cards. Source: make_gpu_buft_list in src/llama-model.cpp.
_SPLIT_BUFFERS = b"ggml_backend_split_buffer_type"


class Split(Enum):
    """llama.cpp's ways to share layers among cards. Source: enum llama_split_mode in include/llama.h."""

    # Each card has whole layers, and works on them alone.
    LAYER = 1
    # Rows of large weights lie on all cards, by the backend's own means: SYCL has them, CUDA no longer.
    ROW = 2
    # Each card has a part of every large tensor, and they work at the same time.
    TENSOR = 3


@dataclass(frozen=True, slots=True)
class Cards:
    """Cards by their names in `native.devices`, in the order of the layers, and what each gets of a stage.

    `shares` are, for LAYER, layers of the stage (the output goes with the last), and for TENSOR parts of each tensor,
    in any unit. 0: nothing; ROW leaves it to the backend.
    """

    names: tuple[str, ...]
    split: Split
    shares: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.split is Split.ROW:
            return
        if len(self.shares) != len(self.names) or min(self.shares, default=0) < 0 or not any(self.shares):
            raise ValueError(f"cards {', '.join(self.names)} need a share each, and not 0 for all: {self.shares}")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a stage's layers go: its own devices in llama.cpp's list, how many of the layers are on each, and the
    buffer type of each of its cards (which may be more: cards that share tensors are one device)."""

    devices: tuple[int, ...]
    n_layers: tuple[int, ...]
    buffer_types: tuple[int, ...]
    split: Split = Split.LAYER
    joined: JoinedCards | None = None

    def close(self) -> None:
        """Frees what was made for it; the model must be gone."""
        if self.joined is not None:
            self.joined.close()


def placed(device: str | Cards | None, layout: ModelLayout, layers: LayerRange, *, is_dry: bool) -> Placement:
    """Where layers of a model go on that device, or those cards.

    Raises:
        UnknownDeviceError: there is no such device.
        UnsupportedModelError: its tensors cannot be shared.
        ValueError: shares that are not of these layers, or rows of less than a whole model.
    """
    if not isinstance(device, Cards):
        handle = handle_of(device)
        return Placement((handle,), (len(layers),), (buffer_type_of(handle),))
    handles = tuple(map(handle_of, device.names))
    if device.split is Split.TENSOR:
        joined = JoinedCards(layout, layers, handles, device.shares, is_dry=is_dry)
        return Placement((joined.device,), (len(layers),), (joined.buffer_type,), Split.TENSOR, joined)
    buffer_types = tuple(map(buffer_type_of, handles))
    if device.split is Split.ROW:
        if len(layers) != layout.n_layer:
            raise ValueError(
                f"cards can share the rows of a whole model, not of layers {layers}: share layers or tensors instead"
            )
        return Placement(handles, (), buffer_types, Split.ROW)
    if sum(device.shares) != len(layers):
        raise ValueError(f"shares {device.shares} of layers {layers} are not all of them, or more")
    used = [pair for pair in zip(handles, device.shares, strict=True) if pair[1]]
    return Placement(tuple(handle for handle, _ in used), tuple(n for _, n in used), buffer_types)


def can_split_rows(name: str) -> bool:
    """Whether the backend of that card offers Split.ROW.

    Raises:
        UnknownDeviceError: there is no such device.
    """
    return bool(_procedure(registry_of(handle_of(name)), _SPLIT_BUFFERS))
