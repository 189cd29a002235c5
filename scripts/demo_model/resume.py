# SPDX-License-Identifier: MIT
"""A model that `export` wrote, read back to train it further."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer

from .export import tensors_of
from .model import DemoModel, Shape
from .tokenizer import restored


def read_gguf(path: Path, shape: Shape) -> tuple[DemoModel, Tokenizer]:
    """The model and its tokenizer; what Q8_0 rounded away is lost, which training soon makes good.

    Raises:
        ValueError: the file holds a model of another shape.
    """
    reader = gguf.GGUFReader(path)
    stored = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    model = DemoModel(shape)
    wanted = dict(tensors_of(model))
    if {name: values.shape for name, values in stored.items()} != {
        name: weight.shape for name, weight in wanted.items()
    }:
        raise ValueError(f"{path} holds a model of another shape")
    with torch.no_grad():
        for name, weight in wanted.items():
            weight.copy_(torch.from_numpy(np.array(stored[name], dtype=np.float32)))
    tokens = reader.get_field("tokenizer.ggml.tokens")
    merges = reader.get_field("tokenizer.ggml.merges")
    if tokens is None or merges is None:
        raise ValueError(f"{path} holds no tokenizer")
    return model, restored(tokens.contents(), merges.contents())
