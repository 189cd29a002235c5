# SPDX-License-Identifier: MIT
"""A model loaded by llama.cpp, whole or a layer range of it.

For a layer range llama.cpp is given three devices: a wire for the layers before, the real device behind a fence, a
wire for the layers after, with a tensor split that counts layers. Weights of layers elsewhere land on wires, which
have no memory. Several cards take the real device's place one after another, each behind a fence.
"""

from __future__ import annotations

import ctypes as c
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import llama_cpp

from native.cards import Cards, Split, placed
from native.devices import cpu_handle
from native.errors import LoadCancelledError, NativeError
from native.layout import ModelLayout, check_generative, check_splittable, read_layout
from native.library import wire
from native.loading import load_handle
from native.partial_file import PartialFile, open_partly
from native.ranges import LayerRange
from native.vocabulary import Vocabulary

_LOG = logging.getLogger(__name__)

# A wire has no bound of its own beyond its layers; the last one stands for "all that follow".
_NO_END = 1 << 30

# What one step of a stage may capture or be given. A frame is at most a batch of hidden states times the few tensors
# that cross; this stops a runaway, not a large model (a batch of 2048 tokens by 16384 values is 128 MiB).
MAX_STEP_BYTES = 2 << 30

# What only the first stage reads, beside the embedding itself, which a tied output shares. LFM2 names its output norm
# like an embedding norm.
_EMBEDDING = r"^token_embd\."
_INPUT_TENSORS = r"^token_embd_norm|^per_layer_tok|^position_embd|^token_types|^altup_proj\."

# The one of them that llama.cpp places with the output, where a first stage has a wire (Gemma 3n).
_FIRST_STAGE_TENSORS = r"^altup_proj\."

# What the last stage reads behind the last layer.
_OUTPUT_TENSORS = r"^output|^altup_unembd_proj\."

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
        self.vocabulary = Vocabulary(llama_cpp.llama_model_get_vocab(handle), model_handle=handle)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        layers: LayerRange | None = None,
        device: str | Cards | None = None,
        on_progress: OnProgress | None = None,
        allocate: bool = True,
    ) -> Model:
        """Loads a layer range (all layers without one) onto a device or several cards (llama.cpp's own choice without).

        Blocking, for as long as reading the weights takes. Without `layers` and `device` this is exactly llama.cpp's
        default load; with either the file is read, not mapped, and of other layers nothing is read where that can be
        (native/partial_file.py).

        Args:
            path: the GGUF, or the first file of a split one.
            layers: half-open; the stage from layer 0 embeds tokens, the one that ends at n_layer has the output.
            device: a name of `native.devices`, or several with what each gets.
            on_progress: called with the part of the bytes to read that is read, 0..1, on this thread; returning False
                cancels.
            allocate: False for a dry run that reads the header only.

        Raises:
            ModelFileError, UnsupportedModelError, UnknownDeviceError, LoadCancelledError.
            ValueError: layers beyond the model's, or shares that are not of these layers.
            LoadFailedError: llama.cpp refused, with its reason; nothing is left loaded.
        """
        layout = read_layout(path)
        whole = LayerRange(0, layout.n_layer)
        layers = layers or whole
        if layers.end > layout.n_layer:
            raise ValueError(f"layers {layers} were asked for and {layout.path.name} has {layout.n_layer}")
        check_generative(layout)
        if layers != whole:
            check_splittable(layout)
        setup = _LoadSetup(layout, layers, device, on_progress, allocate)
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
    ) -> None:
        self.layout = layout
        self.layers = layers
        self.is_dry = not allocate
        self.place = placed(device, layout, layers, is_dry=self.is_dry)
        self.is_cpu = set(self.place.devices) == {cpu_handle()}
        self.wires = Wires()
        self.cancelled = False
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
        self._set_overrides()

    def load(self) -> int:
        """Runs the load; on failure frees the wires and says why."""
        try:
            return self._load_partly() or load_handle(self.layout, self.params)
        except NativeError:
            self.wires.close()
            self.place.close()
            if self.cancelled:
                raise LoadCancelledError(f"loading {self.layout.path.name} was cancelled") from None
            raise

    def _load_partly(self) -> int | None:
        """Loads without reading what other layers have; None where that cannot be done."""
        if not self.wires.fences or self.is_dry:
            return None
        with open_partly(self.layout, self.layers) as self.file:
            if self.file is None:
                return None
            handle = load_handle(self.layout, self.params, self.file)
            wires = [each for each in (self.wires.before, self.wires.after) if each is not None]
            # What was not read must have gone to a wire, every byte of it: nothing that computes may hold such bytes.
            if self.file.skipped_bytes == sum(wire().caravan_wire_weight_bytes(each) for each in wires):
                return handle
        self.file = None
        llama_cpp.llama_model_free(handle)
        _LOG.warning("%s is read as a whole: llama.cpp put layers in unforeseen places", self.layout.path.name)
        return None

    def _set_devices(self, devices: Sequence[int]) -> None:
        self.devices = (c.c_void_p * (len(devices) + 1))(*devices, None)
        self.params.devices = c.cast(self.devices, c.c_void_p)

    def _set_split(self, n_layers: Sequence[int]) -> None:
        """How many layers each device of the list has, without those that are nobody's here: blocks behind the last
        layer, and the output, go to the last device. Cards that share rows have no such numbers."""
        split = [*n_layers]
        if split:
            split[-1] += self.layout.n_block + 1 - sum(split)
        self.split = (c.c_float * max(llama_cpp.llama_max_devices(), len(split)))(*split)
        self.params.tensor_split = self.split
        self.params.n_gpu_layers = self.layout.n_block + 1
        self.params.split_mode = self.place.split.value if self.place.split is Split.ROW else Split.LAYER.value

    def _set_overrides(self) -> None:
        """Sends what only the first stage reads to the wire before; names what lies on the CPU as such.

        Only tensors overridden to the CPU's buffer type get the repacked layouts that llama.cpp picks by itself for a
        CPU it was not given as a device (llama_model_loader::create_tensor), and without them results differ.
        """
        is_last = self.layers.end == self.layout.n_layer
        is_tied = all(tensor.name != "output.weight" for tensor in self.layout.tensors)
        overrides: list[tuple[str, int]] = []
        if self.wires.before is not None:
            elsewhere = [] if self.layout.architecture.startswith("lfm2") else [_INPUT_TENSORS]
            elsewhere += [] if is_last and is_tied else [_EMBEDDING]
            before = wire().caravan_wire_buffer_type(self.wires.before)
            overrides += [(pattern, before) for pattern in elsewhere]
        device = self.place.buffer_types[0]
        if self.wires.before is None:
            overrides.append((_FIRST_STAGE_TENSORS, device))
        if self.is_cpu:
            own = "|".join(map(str, range(self.layers.start, self.layers.end)))
            overrides.append((rf"^blk\.({own})\.", device))
            if is_last:
                overrides.append((f"{_OUTPUT_TENSORS}|{_EMBEDDING}" if is_tied else _OUTPUT_TENSORS, device))
        array = (_Override * (len(overrides) + 1))()
        for i, (pattern, buffer_type) in enumerate(overrides):
            array[i] = _Override(pattern.encode(), buffer_type)
        self.overrides = array
        self.params.tensor_buft_overrides = c.cast(array, c.c_void_p)

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
