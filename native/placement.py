# SPDX-License-Identifier: MIT
"""Which tensors of a model a stage has itself and which lie on its wires, by their names: what llama.cpp's own
placement and our overrides of it (native/model.py) come to. Pure.

What is said here is checked after each load: what was not read must have gone to a wire (native/partial_file.py).
"""

from __future__ import annotations

import re

from native.layout import ModelLayout, TensorLayout
from native.ranges import LayerRange

# What only the first stage reads, beside the embedding itself, which a tied output shares. LFM2 names its output norm
# like an embedding norm.
EMBEDDING = r"^token_embd\."
_INPUT_TENSORS = r"^token_embd_norm|^per_layer_tok|^position_embd|^token_types|^altup_proj\."
_MISNAMED_OUTPUT_NORM = r"^token_embd_norm"

# The one of them that llama.cpp places with the output, where a first stage has a wire (Gemma 3n).
FIRST_STAGE_TENSORS = r"^altup_proj\."

# What the last stage reads behind the last layer, and llama.cpp places there by itself.
OUTPUT_TENSORS = r"^output|^altup_unembd_proj\."

# A table that llama.cpp maps where it is larger than this, on every stage, instead of reading it.
# Source: llama_model_loader::lazy_read::add in src/llama-model-loader.cpp, which two architectures call for this one.
_MAPPED_TABLE = "per_layer_token_embd."
_MAPPED_BYTES = 4 << 30


def is_tied(layout: ModelLayout) -> bool:
    """Whether the output shares the embedding's weights; an encoder has no output."""
    return not layout.is_encoder and all(tensor.name != "output.weight" for tensor in layout.tensors)


def patterns_before(layout: ModelLayout, layers: LayerRange) -> tuple[str, ...]:
    """Names of what a stage behind the first has no use for, though it is of no layer: it goes to the wire before."""
    is_last = layers.end == layout.n_layer
    inputs = () if _has_misnamed_norm(layout) else (_INPUT_TENSORS,)
    return inputs if is_last and is_tied(layout) else (*inputs, EMBEDDING)


def is_mapped(tensor: TensorLayout) -> bool:
    """Whether llama.cpp maps the tensor from a file, which must not be a stream then."""
    return tensor.name.startswith(_MAPPED_TABLE) and tensor.n_bytes > _MAPPED_BYTES


def tensors_elsewhere(layout: ModelLayout, layers: LayerRange) -> frozenset[TensorLayout]:
    """Tensors that a stage of these layers does not need: other layers', and what only the first or the last stage
    reads. Blocks behind the last layer are the last stage's.
    """
    end = layout.n_block if layers.end == layout.n_layer else layers.end
    patterns = patterns_before(layout, layers) if layers.start > 0 else ()
    if layers.end < layout.n_layer:
        patterns += (OUTPUT_TENSORS, *((_MISNAMED_OUTPUT_NORM,) if _has_misnamed_norm(layout) else ()))
    loose = re.compile("|".join(patterns)) if patterns else None

    def is_elsewhere(tensor: TensorLayout) -> bool:
        if tensor.layer is not None:
            return not layers.start <= tensor.layer < end
        return loose is not None and not is_mapped(tensor) and loose.search(tensor.name) is not None

    return frozenset(filter(is_elsewhere, layout.tensors))


def _has_misnamed_norm(layout: ModelLayout) -> bool:
    return layout.architecture.startswith("lfm2")
