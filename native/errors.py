# SPDX-License-Identifier: MIT
"""Everything that can go wrong between us and llama.cpp, as exceptions.

NativeError
├── LibraryMismatchError       the running llama.cpp is not the one this build speaks to
├── UnknownDeviceError         no device of that name
├── ModelFileError             not a GGUF, truncated, damaged
│   └── ModelFileNotFoundError
├── UnsupportedModelError      unknown to llama.cpp, or cannot be split
├── LoadCancelledError         the progress callback said stop
├── LoadFailedError            llama.cpp could not load or make a context
├── DeviceMemoryError          it does not fit
├── DecodeError                llama.cpp failed a step; the context's cache is no longer to be trusted
│   └── CrossingError          a crossing tensor is missing or of another shape
├── GrammarError               a grammar that does not parse
├── SamplingError              no token can be sampled
├── TokenizeError              text that cannot become tokens
└── ChatTemplateError          the model's chat template refused or is broken
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class NativeError(Exception):
    """Base of all; its text is one sentence for the user."""


class LibraryMismatchError(NativeError):
    """The running llama.cpp differs from the one the wire was built for."""


class UnknownDeviceError(NativeError):
    """No device of that name in this llama.cpp build."""

    def __init__(self, name: str, available: Sequence[str]) -> None:
        super().__init__(f"there is no device {name!r} here; this llama.cpp has: {', '.join(available)}")
        self.name = name
        self.available = tuple(available)


class ModelFileError(NativeError):
    """The file is no usable GGUF."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


class ModelFileNotFoundError(ModelFileError):
    """There is no such file."""


class UnsupportedModelError(NativeError):
    """A model that llama.cpp does not know, or that a line cannot split."""

    def __init__(self, architecture: str, reason: str) -> None:
        super().__init__(f"architecture {architecture!r} {reason}")
        self.architecture = architecture
        self.reason = reason


class LoadCancelledError(NativeError):
    """Loading was stopped by its progress callback; nothing is left loaded."""


class LoadFailedError(NativeError):
    """llama.cpp could not load the model or make the context; carries its last words."""


class DeviceMemoryError(NativeError):
    """The stage needs more memory than the device has free."""

    def __init__(self, device: str, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"{device} has {free_bytes / 2**30:.2f} GiB free and {needed_bytes / 2**30:.2f} GiB are needed: "
            "give this worker fewer layers, a shorter context or fewer parallel sequences"
        )
        self.device = device
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class DecodeError(NativeError):
    """llama.cpp failed a step. The KV cache may hold part of it: start over with a cleared cache."""


class CrossingError(DecodeError):
    """A crossing tensor was asked for and did not arrive, arrived otherwise, or nobody asked for it."""


class GrammarError(NativeError):
    """The grammar does not parse."""


class SamplingError(NativeError):
    """No token could be sampled for a row."""


class TokenizeError(NativeError):
    """The text cannot be tokenised."""


class ChatTemplateError(NativeError):
    """The chat template is missing, broken, or refused the messages."""
