# SPDX-License-Identifier: MIT
"""Writes llama-architecture GGUFs whose weights are all zero: slow to load and to compute, or too large for any
machine, and hardly anything on disk, because the file is a hole behind its header.
"""

from pathlib import Path

import gguf
import numpy as np

N_LAYER = 4
N_EMBD = 1024
_N_HEAD = 8
_N_VOCAB = 512


def write_heavy_model(path: Path, *, n_ff: int = 4096) -> Path:
    """Writes one of about 48 KiB * n_ff; with 4096, llama.cpp takes a tenth of a second to load it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(N_LAYER)
    writer.add_context_length(4096)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(_N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(_N_VOCAB)
    writer.add_tokenizer_model("llama")
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    words = [f"w{number}" for number in range(_N_VOCAB - 259)]
    writer.add_token_list(["<unk>", "<s>", "</s>", *byte_tokens, *words])
    writer.add_token_scores([0.0] * _N_VOCAB)
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * len(words)])
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (_N_VOCAB, N_EMBD), "output_norm.weight": (N_EMBD,)}
    shapes["output.weight"] = (_N_VOCAB, N_EMBD)
    for layer in range(N_LAYER):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in _layer_shapes(n_ff).items()}
    n_bytes = 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size)
        n_bytes += size
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    # All sizes are multiples of GGUF's alignment of 32.
    with path.open("r+b") as file:
        header_bytes = file.seek(0, 2)
        file.truncate((header_bytes + 31) // 32 * 32 + n_bytes)
    return path


def _layer_shapes(n_ff: int) -> dict[str, tuple[int, ...]]:
    square = (N_EMBD, N_EMBD)
    return {
        "attn_norm": (N_EMBD,),
        "ffn_norm": (N_EMBD,),
        "attn_q": square,
        "attn_k": square,
        "attn_v": square,
        "attn_output": square,
        "ffn_gate": (n_ff, N_EMBD),
        "ffn_up": (n_ff, N_EMBD),
        "ffn_down": (N_EMBD, n_ff),
    }
