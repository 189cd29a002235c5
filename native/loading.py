# SPDX-License-Identifier: MIT
"""The one call that loads a file into llama.cpp, its refusals turned into our errors."""

from __future__ import annotations

import os
from pathlib import Path

import llama_cpp

from native.errors import LoadFailedError, UnsupportedModelError
from native.layout import ModelLayout
from native.library import crashes_refused, forget_errors, last_errors
from native.partial_file import PartialFile


def load_handle(
    layout: ModelLayout,
    params: llama_cpp.llama_model_params,
    file: PartialFile | None = None,
    *,
    path: Path | None = None,
) -> int:
    """Loads what `params` says, through `file` or from another path if there is one, and returns llama.cpp's model
    handle.

    Raises:
        UnsupportedModelError: an architecture that this llama.cpp does not know.
        LoadFailedError: any other refusal, with llama.cpp's reason.
    """
    forget_errors()
    # A header that gets through this gets through a load of its weights.
    with crashes_refused(params.no_alloc or params.vocab_only):
        if file is None:
            handle = llama_cpp.llama_model_load_from_file(os.fsencode(path or layout.path), params)
        else:
            handle = llama_cpp.llama_model_load_from_file_ptr(file.stream, params)
    if handle:
        return int(handle)
    reason = last_errors()
    if "unknown model architecture" in reason:
        raise UnsupportedModelError(
            layout.architecture, f"is unknown to the installed llama.cpp (llama-cpp-python {llama_cpp.__version__})"
        )
    raise LoadFailedError(f"llama.cpp could not load {layout.path.name}: {reason}")
