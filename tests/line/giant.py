# SPDX-License-Identifier: MIT
"""A model far too large for any machine in a file of a few kilobytes: a true GGUF header, and a hole for weights."""

import os
from pathlib import Path

import gguf
import numpy as np

_N_LAYER = 40
_N_EMBD = 65536
_PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"]
_TYPES = [2, 3, 3, *[6] * 256, 1, 1, 1]


def write_giant(path: Path) -> Path:
    """A llama of 40 layers with several terabytes of weights."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(_N_EMBD)
    writer.add_block_count(_N_LAYER)
    writer.add_feed_forward_length(_N_EMBD)
    writer.add_head_count(512)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(128)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(_PIECES)
    writer.add_token_scores([0.0] * len(_PIECES))
    writer.add_token_types(_TYPES)
    n_bytes = 0
    for name, shape in _tensors().items():
        tensor_bytes = 4 * int(np.prod(shape, dtype=np.int64))
        writer.add_tensor_info(name, shape, np.dtype(np.float32), tensor_bytes)
        n_bytes += tensor_bytes
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, path.stat().st_size + n_bytes + 4096)
    return path


def _tensors() -> dict[str, tuple[int, ...]]:
    """Names and numpy shapes; all f32."""
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(_PIECES), _N_EMBD),
        "output_norm.weight": (_N_EMBD,),
    }
    for layer in range(_N_LAYER):
        for norm in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{norm}.weight"] = (_N_EMBD,)
        for matrix in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            tensors[f"blk.{layer}.{matrix}.weight"] = (_N_EMBD, _N_EMBD)
    return tensors
