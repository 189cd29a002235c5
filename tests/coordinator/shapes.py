# SPDX-License-Identifier: MIT
"""Models of a known size and no weights: true GGUF headers in front of a hole, for plans that only count bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np


@dataclass(frozen=True, slots=True)
class Shape:
    """A llama's sizes; with experts if `n_expert` is not 0. All matrices are Q4_K, the output layer Q6_K."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_vocab: int
    n_head: int
    n_head_kv: int = 8
    n_expert: int = 0
    n_expert_used: int = 0


LLAMA_70B = Shape(n_layer=80, n_embd=8192, n_ff=28672, n_vocab=128256, n_head=64)
LLAMA_8B = Shape(n_layer=32, n_embd=4096, n_ff=14336, n_vocab=128256, n_head=32)
MIXTRAL_8X7B = Shape(n_layer=32, n_embd=4096, n_ff=14336, n_vocab=32000, n_head=32, n_expert=8, n_expert_used=2)


def write_shape(path: Path, shape: Shape) -> Path:
    """Writes the header, and a hole as large as the weights; they take no place on the disk."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_head)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_tokenizer_model("no_vocab")
    if shape.n_expert:
        writer.add_expert_count(shape.n_expert)
        writer.add_expert_used_count(shape.n_expert_used)
    n_bytes = 0
    for name, dimensions in _tensors(shape).items():
        kind = _kind(name)
        block_size, type_bytes = gguf.GGML_QUANT_SIZES[kind]
        tensor_bytes = int(np.prod(dimensions, dtype=np.int64)) // block_size * type_bytes
        writer.add_tensor_info(name, dimensions, np.dtype(np.float32), tensor_bytes, raw_dtype=kind)
        n_bytes += tensor_bytes + writer.data_alignment
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, path.stat().st_size + n_bytes)
    return path


def _kind(name: str) -> gguf.GGMLQuantizationType:
    if name == "output.weight":
        return gguf.GGMLQuantizationType.Q6_K
    return gguf.GGMLQuantizationType.F32 if "_norm." in name else gguf.GGMLQuantizationType.Q4_K


def _tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Names and numpy shapes: rows first."""
    n_embd, n_kv = shape.n_embd, shape.n_embd // shape.n_head * shape.n_head_kv
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (shape.n_vocab, n_embd),
        "output_norm.weight": (n_embd,),
        "output.weight": (shape.n_vocab, n_embd),
    }
    up, down = (shape.n_ff, n_embd), (n_embd, shape.n_ff)
    for layer in range(shape.n_layer):
        own: dict[str, tuple[int, ...]] = {"attn_norm": (n_embd,), "ffn_norm": (n_embd,)}
        own |= {"attn_q": (n_embd, n_embd), "attn_output": (n_embd, n_embd)}
        own |= {"attn_k": (n_kv, n_embd), "attn_v": (n_kv, n_embd)}
        if shape.n_expert:
            own |= {"ffn_gate_inp": (shape.n_expert, n_embd)}
            own |= {f"ffn_{name}_exps": (shape.n_expert, *up) for name in ("gate", "up")}
            own |= {"ffn_down_exps": (shape.n_expert, *down)}
        else:
            own |= {"ffn_gate": up, "ffn_up": up, "ffn_down": down}
        tensors |= {f"blk.{layer}.{name}.weight": dimensions for name, dimensions in own.items()}
    return tensors
