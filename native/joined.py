# SPDX-License-Identifier: MIT
"""Cards that share every tensor of a stage, as one device: llama.cpp's split mode "tensor".

llama.cpp makes such a device ("meta") of all devices that a model is given. A stage is given wires beside its cards, so
the device is made here, by the same two functions: ggml_backend_meta_device, and llama.cpp's rule for which part of a
tensor is whose. That rule looks at a loaded model, so a second one is loaded that allocates nothing.
"""

from __future__ import annotations

import ctypes as c
import math
import threading
from collections.abc import Sequence

import llama_cpp

from native.devices import buffer_type_of
from native.errors import UnsupportedModelError
from native.layout import ModelLayout
from native.library import declare, ggml_base, llama, wire
from native.loading import load_handle
from native.ranges import LayerRange
from native.shareable import REMEDY, check_shareable

_meta_device = declare(
    ggml_base, "ggml_backend_meta_device", c.c_void_p, c.POINTER(c.c_void_p), c.c_size_t, c.c_void_p, c.c_void_p
)

# llama_meta_device_get_split_state(const ggml_tensor *, void *) of src/llama-model.h as the Itanium C++ ABI spells it.
# It is no part of llama.cpp's interface, and libraries of MSVC do not show it.
_SPLIT_RULE = "_Z33llama_meta_device_get_split_statePK11ggml_tensorPv"

_SPLIT_MODE_TENSOR = 3
_LOAD_MODE_NONE = 0

# ggml keeps these devices and their buffer types in tables without a lock.
_MAKING = threading.Lock()


class _RuleData(c.Structure):
    """struct llama_meta_device_get_split_state_userdata of src/llama-model.h."""

    _fields_ = (("n_devices", c.c_size_t), ("model", c.c_void_p))


class JoinedCards:
    """One device of several cards. Close it after the model on it."""

    def __init__(
        self,
        layout: ModelLayout,
        layers: LayerRange,
        cards: Sequence[int],
        shares: Sequence[int],
        *,
        is_dry: bool,
    ) -> None:
        """`cards` are ggml's handles; `is_dry`: it is for a load that allocates nothing, and can be weighed.

        Raises:
            UnsupportedModelError: llama.cpp cannot share this model's tensors, or not of some of its layers.
        """
        check_shareable(layout, layers)
        if not hasattr(llama, _SPLIT_RULE):
            raise UnsupportedModelError(
                layout.architecture, f"cannot be shared by tensors with this build of llama.cpp; {REMEDY}"
            )
        self.n_cards = len(cards)
        self._layout = layout
        self._weigher: int | None = None
        self._handles = (c.c_void_p * (self.n_cards + 1))(*cards, None)
        rule = c.cast(getattr(llama, _SPLIT_RULE), c.c_void_p)
        with _MAKING:
            self._plan = self._load_plan(shares)
            # ggml remembers where this lies for as long as the process lives, and looks at it while the model does.
            self._rule_data = _RuleData(self.n_cards, self._plan)
            self.device: int = _meta_device(self._handles, self.n_cards, rule, c.addressof(self._rule_data))
            self.buffer_type = buffer_type_of(self.device)
        if is_dry:
            types = (c.c_void_p * self.n_cards)(*map(buffer_type_of, cards))
            data = c.addressof(self._rule_data)
            self._weigher = wire().caravan_weigher_new(self.buffer_type, types, self.n_cards, rule, data)
            self.buffer_type = wire().caravan_weigher_buffer_type(self._weigher)

    def weigh(self, card: int | None) -> None:
        """From now on a dry load counts the parts of that card; None: whole tensors."""
        if self._weigher is not None:
            wire().caravan_weigher_weigh(self._weigher, self.n_cards if card is None else card)

    def check_weighed(self) -> None:
        """Refuses what would leave the card out that was just weighed, which llama.cpp does not always survive.

        Raises:
            UnsupportedModelError: it gets nothing of a tensor.
        """
        left_out = wire().caravan_weigher_left_out(self._weigher).decode() if self._weigher is not None else ""
        if left_out:
            raise UnsupportedModelError(
                self._layout.architecture,
                f"cannot be shared by tensors among {self.n_cards} cards like this, one would get nothing of"
                f" {left_out}; use fewer cards, or {REMEDY}",
            )

    def exchange_bytes(self, n_ubatch: int) -> int:
        """Most that each card takes beside its compute buffer, to add up what all of them computed of a tensor."""
        steps = math.ceil(math.log2(self.n_cards))
        return steps * 4 * n_ubatch * self._layout.n_embd * max(1, self._layout.n_expert_used)

    def close(self) -> None:
        """Frees what belongs to it; harmless twice. The device itself stays in ggml's table."""
        if self._plan:
            llama_cpp.llama_model_free(self._plan)
            self._plan = 0
        if self._weigher is not None:
            wire().caravan_weigher_free(self._weigher)
            self._weigher = None

    def _load_plan(self, shares: Sequence[int]) -> int:
        params = llama_cpp.llama_model_default_params()
        params.devices = c.cast(self._handles, c.c_void_p)
        fractions = (c.c_float * max(llama_cpp.llama_max_devices(), len(shares)))(*shares)
        params.tensor_split = fractions
        params.n_gpu_layers = self._layout.n_block + 1
        params.split_mode = _SPLIT_MODE_TENSOR
        params.no_alloc = True
        params.load_mode = _LOAD_MODE_NONE
        return load_handle(self._layout, params)
