# SPDX-License-Identifier: MIT
"""Everything that touches llama.cpp: the wire (C++), and a typed layer over llama-cpp-python's low-level API.

Imported by the worker and the coordinator; imports nothing of theirs, and nothing that speaks to a network.
"""

from native.cards import Cards, Split
from native.chat_template import ChatTemplate
from native.context import Batch, Context, ContextParams, CrossingTensor, FlashAttention, default_threads
from native.devices import Device, DeviceKind, backends, bus_id, devices, find_device
from native.dry_run import LayerBytes, LayerCosts, can_shift, dry_run, measure_layers
from native.errors import (
    ChatTemplateError,
    CrossingError,
    DecodeError,
    DeviceMemoryError,
    GrammarError,
    LibraryMismatchError,
    LoadCancelledError,
    LoadFailedError,
    ModelFileError,
    ModelFileNotFoundError,
    NativeError,
    SamplingError,
    TokenizeError,
    UnknownDeviceError,
    UnsupportedModelError,
)
from native.layout import ModelLayout, TensorLayout, check_embeds, check_splittable, header_size, read_layout
from native.library import Versions, versions
from native.memory import CardUse, MemoryUse
from native.model import Model
from native.partial_file import Weights
from native.pooling import EUCLIDEAN, Pooling, normalised
from native.ranges import LayerRange
from native.sampler import Sampled, Sampler, SamplingParams, check_params
from native.vocabulary import Vocabulary

__all__ = [
    "EUCLIDEAN",
    "Batch",
    "CardUse",
    "Cards",
    "ChatTemplate",
    "ChatTemplateError",
    "Context",
    "ContextParams",
    "CrossingError",
    "CrossingTensor",
    "DecodeError",
    "Device",
    "DeviceKind",
    "DeviceMemoryError",
    "FlashAttention",
    "GrammarError",
    "LayerBytes",
    "LayerCosts",
    "LayerRange",
    "LibraryMismatchError",
    "LoadCancelledError",
    "LoadFailedError",
    "MemoryUse",
    "Model",
    "ModelFileError",
    "ModelFileNotFoundError",
    "ModelLayout",
    "NativeError",
    "Pooling",
    "Sampled",
    "Sampler",
    "SamplingError",
    "SamplingParams",
    "Split",
    "TensorLayout",
    "TokenizeError",
    "UnknownDeviceError",
    "UnsupportedModelError",
    "Versions",
    "Vocabulary",
    "Weights",
    "backends",
    "bus_id",
    "can_shift",
    "check_embeds",
    "check_params",
    "check_splittable",
    "default_threads",
    "devices",
    "dry_run",
    "find_device",
    "header_size",
    "measure_layers",
    "normalised",
    "read_layout",
    "versions",
]
