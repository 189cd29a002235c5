# SPDX-License-Identifier: MIT
"""A model loaded by llama.cpp, whole or a layer range of it.

For a layer range llama.cpp is given three devices: a wire for the layers before, the real device behind a fence, a
wire for the layers after, with a tensor split that counts layers. Weights of layers elsewhere land on wires, which
have no memory. Several cards take the real device's place one after another, each behind a fence.
"""

from __future__ import annotations

import ctypes as c
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import llama_cpp

from native.cards import Cards, Split, placed
from native.devices import buffer_type_of, cpu_handle
from native.errors import LoadCancelledError, NativeError
from native.experts import HostExperts, host_experts
from native.layout import ModelLayout, TensorLayout, check_runs, check_splittable, layout_of
from native.library import wire
from native.loading import load_handle
from native.partial_file import PartialFile, Weights, open_partly
from native.placement import (
    EMBEDDING,
    FIRST_STAGE_TENSORS,
    OUTPUT_TENSORS,
    is_tied,
    patterns_before,
    tensors_elsewhere,
)
from native.ranges import LayerRange
from native.vocabulary import Vocabulary

_LOG = logging.getLogger(__name__)

# A wire has no bound of its own beyond its layers; the last one stands for "all that follow".
_NO_END = 1 << 30

# What one step of a stage may capture or be given. A frame is at most a batch of hidden states times the few tensors
# that cross; this stops a runaway, not a large model (a batch of 2048 tokens by 16384 values is 128 MiB).
MAX_STEP_BYTES = 2 << 30

# llama.cpp's load mode that reads into buffers instead of mapping the file: mapping would prefetch every layer, and
# files are never mapped in huge pages.
_LOAD_MODE_NONE = 0

OnProgress = Callable[[float], bool]


class _Override(c.Structure):
    """struct llama_model_tensor_buft_override."""

    _fields_ = (("pattern", c.c_char_p), ("buffer_type", c.c_void_p))


@dataclass(slots=True)
class Wires:
    """The devices standing for the layers before and after, None where there is nothing to stand for, and the fences
    around the stage's own."""

    before: int | None = None
    after: int | None = None
    fences: list[int] = field(default_factory=list)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """While a model is loaded over them, so that its weights pass by quickly."""
        handles = [handle for handle in (self.before, self.after) if handle is not None]
        for handle in handles:
            wire().caravan_wire_loading(handle, True)
        try:
            yield
        finally:
            for handle in handles:
                wire().caravan_wire_loading(handle, False)

    def close(self) -> None:
        """Frees them; the model and its contexts must be gone."""
        library = wire()
        for handle in (self.before, self.after):
            if handle is not None:
                library.caravan_wire_free(handle)
        for fence in self.fences:
            library.caravan_fence_free(fence)
        self.before = self.after = None
        self.fences = []


class Model:
    """A loaded model. Not thread-safe; close it (or leave its `with`) after its contexts."""

    def __init__(self, handle: int, setup: _LoadSetup) -> None:
        self.handle = handle
        self.layout = setup.layout
        self.layers = setup.layers
        self.wires = setup.wires
        self.place = setup.place
        self.is_cpu = setup.is_cpu
        self.is_dry = setup.is_dry
        self.host_experts = setup.host_experts
        self.vocabulary = Vocabulary(llama_cpp.llama_model_get_vocab(handle), model_handle=handle)

    @classmethod
    def load(
        cls,
        model: str | Path | ModelLayout,
        *,
        layers: LayerRange | None = None,
        device: str | Cards | None = None,
        on_progress: OnProgress | None = None,
        allocate: bool = True,
        n_cpu_moe: int = 0,
        weights: Weights | None = None,
    ) -> Model:
        """Loads a layer range (all layers without one) onto a device or several cards (llama.cpp's own choice without).

        Blocking, for as long as reading the weights takes. Without `layers` and `device` this is exactly llama.cpp's
        default load; with either the file is read, not mapped, and of other layers nothing is read where that can be
        (native/partial_file.py).

        Args:
            model: the GGUF, or the first file of a split one; or what was read of its header.
            layers: half-open; the stage from layer 0 embeds tokens, the one that ends at n_layer has the output.
            device: a name of `native.devices`, or several with what each gets.
            on_progress: called with the part of the bytes to read that is read, 0..1, on this thread; returning False
                cancels.
            allocate: False for a dry run that reads the header only.
            n_cpu_moe: of the first so many of these layers that have experts, these lie in system memory and are
                computed there, as with llama.cpp's option of that name. On the CPU that changes nothing but what
                counts as `host_bytes`.
            weights: where the tensors are, or will be; None: all in the file.

        Raises:
            ModelFileError, UnsupportedModelError, UnknownDeviceError, LoadCancelledError; whatever `weights` raise.
            ValueError: layers beyond the model's, fewer with experts than `n_cpu_moe`, or shares that are not of these
                layers.
            LoadFailedError: llama.cpp refused, with its reason; nothing is left loaded.
        """
        layout = layout_of(model)
        whole = LayerRange(0, layout.n_layer)
        layers = layers or whole
        if layers.end > layout.n_layer:
            raise ValueError(f"layers {layers} were asked for and {layout.path.name} has {layout.n_layer}")
        check_runs(layout)
        experts = host_experts(layout, layers, n_cpu_moe)
        if experts.layers and isinstance(device, Cards) and device.split is Split.TENSOR:
            raise ValueError(
                "experts cannot lie in system memory beside cards that share tensors; share layers (--split layer)"
            )
        if layers != whole:
            check_splittable(layout)
        setup = _LoadSetup(layout, layers, device, on_progress, allocate, experts, weights)
        if layers != whole or setup.place.joined is not None:
            setup.add_wires()
        return cls(setup.load(), setup)

    @property
    def n_layer(self) -> int:
        """Layers of the whole model."""
        return self.layout.n_layer

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary: the width of a row of logits."""
        return self.vocabulary.n_tokens

    @property
    def n_embd_out(self) -> int:
        """Numbers in an embedding."""
        return int(llama_cpp.llama_model_n_embd_out(self.handle))

    @property
    def n_ranks(self) -> int:
        """Numbers that a reranker's head makes of a text; the first says how well a document answers a query."""
        return int(llama_cpp.llama_model_n_cls_out(self.handle))

    @property
    def is_first(self) -> bool:
        """Whether this stage embeds tokens."""
        return self.layers.start == 0

    @property
    def is_last(self) -> bool:
        """Whether this stage has the output layer."""
        return self.layers.end == self.n_layer

    def close(self) -> None:
        """Frees everything; harmless twice."""
        if self.handle:
            llama_cpp.llama_model_free(self.handle)
            self.handle = 0
            self.wires.close()
            self.place.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


class _LoadSetup:
    """Parameters of one load, with the arrays that must stay alive while llama.cpp reads them."""

    def __init__(
        self,
        layout: ModelLayout,
        layers: LayerRange,
        device: str | Cards | None,
        on_progress: OnProgress | None,
        allocate: bool,
        experts: HostExperts,
        weights: Weights | None,
    ) -> None:
        self.layout = layout
        self.layers = layers
        self.is_dry = not allocate
        self.host_experts = experts
        self.weights = None if self.is_dry else weights
        self.place = placed(device, layout, layers, is_dry=self.is_dry)
        self.is_cpu = set(self.place.devices) == {cpu_handle()}
        self.wires = Wires()
        self.cancelled = False
        self.was_misplaced = False
        self.file: PartialFile | None = None
        self.params = llama_cpp.llama_model_default_params()
        if self.is_dry:
            # Nothing is mapped either, so that a header with a hole behind it will do.
            self.params.no_alloc = True
        if self.is_dry or device is not None:
            self.params.load_mode = _LOAD_MODE_NONE
        if device is not None:
            self._set_devices([] if self.is_cpu else self.place.devices)
        if isinstance(device, Cards):
            self._set_split(self.place.n_layers)
        self._report_to(on_progress)

    def add_wires(self) -> None:
        """Puts a wire before and after the stage's own layers, and a fence around each of its devices."""
        library = wire()
        start, end = self.layers.start, self.layers.end
        is_last = end == self.layout.n_layer
        devices, split = [], []
        if start > 0:
            self.wires.before = library.caravan_wire_new(b"WIRE_BEFORE", 0, start, MAX_STEP_BYTES)
            devices.append(library.caravan_wire_device(self.wires.before))
            split.append(start)
        for device, n_layers in zip(self.place.devices, self.place.n_layers, strict=True):
            fence = library.caravan_fence_new(device, start, _NO_END if is_last else end)
            if self.place.joined is not None:
                library.caravan_fence_join(fence, self.place.joined.buffer_type)
            self.wires.fences.append(fence)
            devices.append(fence)
            split.append(n_layers)
        if not is_last:
            self.wires.after = library.caravan_wire_new(b"WIRE_AFTER", end, _NO_END, MAX_STEP_BYTES)
            devices.append(library.caravan_wire_device(self.wires.after))
            split.append(self.layout.n_block - end)
        self._set_devices(devices)
        self._set_split(split)
        self.params.load_mode = _LOAD_MODE_NONE

    def load(self) -> int:
        """Runs the load; on failure frees the wires and says why."""
        self._set_overrides()
        try:
            with self.wires.loading():
                return self._load_partly() or self._load_from_path()
        except BaseException as error:
            self.wires.close()
            self.place.close()
            if self.file is not None and self.file.failure is not None:
                raise self.file.failure from None
            if self.cancelled and isinstance(error, NativeError):
                raise LoadCancelledError(f"loading {self.layout.path.name} was cancelled") from None
            raise

    def _load_partly(self) -> int | None:
        """Loads without reading what other layers have; None where that cannot be done."""
        if self.is_dry or (not self.wires.fences and self.weights is None):
            return None
        with open_partly(self.layout, self.layers, self.weights) as self.file:
            if self.file is None:
                return None
            handle = load_handle(self.layout, self.params, self.file)
            # What was not read must have gone to a wire, every byte of it: nothing that computes may hold such bytes.
            if self.file.skipped_bytes == sum(map(self._bytes_on_wires, self.file.skipped)):
                return handle
        self.file = None
        self._free_misplaced(handle)
        return None

    def _load_from_path(self) -> int:
        """Loads from a file's path, reading all of it; what is not needed may be anything there, once."""
        if self.weights is None or self.was_misplaced:
            path = None if self.weights is None else self.weights.path(self.layout.tensors)
            return load_handle(self.layout, self.params, path=path)
        elsewhere = tensors_elsewhere(self.layout, self.layers)
        path = self.weights.path([tensor for tensor in self.layout.tensors if tensor not in elsewhere])
        handle = load_handle(self.layout, self.params, path=path)
        # llama.cpp leaves out blocks behind the last layer; all else it has put somewhere.
        expected = [t for t in elsewhere if t.n_bytes and (t.layer is None or t.layer < self.layout.n_layer)]
        if all(map(self._bytes_on_wires, expected)):
            return handle
        self._free_misplaced(handle)
        return self._load_from_path()

    def _bytes_on_wires(self, tensor: TensorLayout) -> int:
        wires = [each for each in (self.wires.before, self.wires.after) if each is not None]
        return sum(wire().caravan_wire_weight_bytes(each, tensor.name.encode()) for each in wires)

    def _free_misplaced(self, handle: int) -> None:
        self.was_misplaced = True
        llama_cpp.llama_model_free(handle)
        _LOG.warning("%s is read as a whole: llama.cpp put tensors in unforeseen places", self.layout.path.name)

    def _set_devices(self, devices: Sequence[int]) -> None:
        self.devices = (c.c_void_p * (len(devices) + 1))(*devices, None)
        self.params.devices = c.cast(self.devices, c.c_void_p)

    def _set_split(self, n_layers: Sequence[int]) -> None:
        """How many layers each device of the list has, without those that are nobody's here: blocks behind the last
        layer, and the output, go to the last device."""
        split = [*n_layers]
        split[-1] += self.layout.n_block + 1 - sum(split)
        self.split = (c.c_float * max(llama_cpp.llama_max_devices(), len(split)))(*split)
        self.params.tensor_split = self.split
        self.params.n_gpu_layers = self.layout.n_block + 1
        self.params.split_mode = Split.LAYER.value

    def _set_overrides(self) -> None:
        """Says where tensors lie that llama.cpp would place elsewhere; the first pattern that fits a name decides."""
        overrides = self._stage_overrides() if self.wires.fences else []
        if self.host_experts.layers and not self.is_cpu:
            overrides.append((self.host_experts.pattern, buffer_type_of(cpu_handle())))
        if not overrides:
            return
        array = (_Override * (len(overrides) + 1))()
        for i, (pattern, buffer_type) in enumerate(overrides):
            array[i] = _Override(pattern.encode(), buffer_type)
        self.overrides = array
        self.params.tensor_buft_overrides = c.cast(array, c.c_void_p)

    def _stage_overrides(self) -> list[tuple[str, int]]:
        """Sends what only the first stage reads to the wire before; names what lies on the CPU as such.

        Only tensors overridden to the CPU's buffer type get the repacked layouts that llama.cpp picks by itself for a
        CPU it was not given as a device (llama_model_loader::create_tensor), and without them results differ.
        """
        is_last = self.layers.end == self.layout.n_layer
        overrides: list[tuple[str, int]] = []
        if self.wires.before is not None:
            before = wire().caravan_wire_buffer_type(self.wires.before)
            overrides += [(pattern, before) for pattern in patterns_before(self.layout, self.layers)]
        device = self.place.first_buffer_type
        if self.wires.before is None:
            overrides.append((FIRST_STAGE_TENSORS, device))
        if self.is_cpu:
            own = "|".join(map(str, range(self.layers.start, self.layers.end)))
            overrides.append((rf"^blk\.({own})\.", device))
            if is_last:
                output = f"{OUTPUT_TENSORS}|{EMBEDDING}" if is_tied(self.layout) else OUTPUT_TENSORS
                overrides.append((output, device))
        return overrides

    def _report_to(self, on_progress: OnProgress | None) -> None:
        if on_progress is None:
            return

        def report(fraction: float, _user_data: object) -> bool:
            try:
                go_on = on_progress(self._fraction_read(fraction))
            except BaseException:
                self.cancelled = True
                raise
            self.cancelled = self.cancelled or not go_on
            return go_on

        self.callback = llama_cpp.llama_progress_callback(report)
        self.params.progress_callback = self.callback

    def _fraction_read(self, fraction: float) -> float:
        """llama.cpp counts tensors that are not read like others; only its last report is always 1."""
        return fraction if self.file is None or fraction >= 1 else self.file.fraction_read
