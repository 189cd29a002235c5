# SPDX-License-Identifier: MIT
"""Several cards of one machine that hold one stage together: the ways to share it, and what llama.cpp is given for
them. Called while a stage loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from native.devices import buffer_type_of, handle_of
from native.joined import JoinedCards
from native.layout import ModelLayout
from native.ranges import LayerRange


class Split(Enum):
    """llama.cpp's ways to share layers among cards. Source: enum llama_split_mode in include/llama.h. Its third, rows,
    is not for stages: wires have no buffers for it, and of its backends SYCL alone still has some.
    """

    # Each card has whole layers, and works on them alone.
    LAYER = 1
    # Each card has a part of every large tensor, and they work at the same time.
    TENSOR = 3


@dataclass(frozen=True, slots=True)
class Cards:
    """Cards by their names in `native.devices`, in the order of the layers, and what each gets of a stage.

    `shares` are, for LAYER, layers of the stage (the output goes with the last), and for TENSOR parts of each tensor,
    in any unit. 0: nothing.
    """

    names: tuple[str, ...]
    split: Split
    shares: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.names) or min(self.shares, default=0) < 0 or not any(self.shares):
            raise ValueError(f"cards {', '.join(self.names)} need a share each, and not 0 for all: {self.shares}")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a stage's layers go: its own devices in llama.cpp's list, how many of the layers are on each, the buffer
    type of the first of them, and that of each card. Cards without layers are no devices; those that share tensors are
    one, `joined`."""

    devices: tuple[int, ...]
    n_layers: tuple[int, ...]
    first_buffer_type: int
    card_buffer_types: tuple[int, ...]
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
        ValueError: shares that are not of these layers.
    """
    if not isinstance(device, Cards):
        handle = handle_of(device)
        buffer_type = buffer_type_of(handle)
        return Placement((handle,), (len(layers),), buffer_type, (buffer_type,))
    handles = tuple(map(handle_of, device.names))
    buffer_types = tuple(map(buffer_type_of, handles))
    if device.split is Split.TENSOR:
        joined = JoinedCards(layout, layers, handles, device.shares, is_dry=is_dry)
        return Placement((joined.device,), (len(layers),), joined.buffer_type, buffer_types, joined)
    if sum(device.shares) != len(layers):
        raise ValueError(f"shares {device.shares} of layers {layers} are not all of them, or more")
    used = [(handle, n_layers) for handle, n_layers in zip(handles, device.shares, strict=True) if n_layers]
    used_handles, n_layers = zip(*used, strict=True)
    return Placement(used_handles, n_layers, buffer_type_of(used_handles[0]), buffer_types)
