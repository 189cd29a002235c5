# SPDX-License-Identifier: MIT
"""Gives llama.cpp the headers named on its command line, and says of each what that came to: a process of its own,
since what is wrong with a loader of other people's files may end it."""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from native import Context, ContextParams, LayerRange, Model, NativeError, Vocabulary, read_layout
from native.dry_run import measure_layers

_HOLE_BYTES = 256 << 20
_PARAMS = ContextParams(n_ctx_seq=64, n_seq_max=1, n_batch=32)


def _vocabulary(path: Path) -> None:
    with Vocabulary.load(path) as vocabulary:
        vocabulary.tokenize("Hello <s>\n\u2581\U0001f600", add_special=True, parse_special=True)


def _stage(path: Path) -> None:
    layers = LayerRange(0, read_layout(path).n_layer)
    with Model.load(path, layers=layers, device="CPU", allocate=False) as model, Context(model, _PARAMS):
        pass


def _measured(path: Path) -> None:
    measure_layers(path, _PARAMS)


def _outcome(of: Callable[[Path], None], path: Path) -> str:
    try:
        of(path)
    except NativeError as error:
        return str(error)
    return ""


def main() -> None:
    """A line of JSON for each: what its vocabulary, its stage and its layers were refused for, if they were."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.gguf"
        for path in map(Path, sys.argv[1:]):
            copy.write_bytes(path.read_bytes())
            os.truncate(copy, _HOLE_BYTES)
            print(json.dumps([_outcome(of, copy) for of in (_vocabulary, _stage, _measured)]), flush=True)


if __name__ == "__main__":
    main()
