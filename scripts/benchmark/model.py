# SPDX-License-Identifier: MIT
"""Writes the benchmark's model: llama architecture, random weights, Q8_0 or what llama.cpp makes of that. Speed does
not depend on what the weights are.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, quants

_N_BYTE_TOKENS = 256


@dataclass(frozen=True)
class Shape:
    """About 350 M parameters as it stands."""

    n_layer: int = 24
    n_embd: int = 1024
    n_ff: int = 2816
    n_head: int = 16
    n_head_kv: int = 8
    n_vocab: int = 32000


def model_file(work: Path, kind: str, programs: Path) -> Path:
    """The model in one of llama.cpp's quantisations, like "Q4_K_M"; written the first time.

    Args:
        programs: Where its llama-quantize is.
    """
    path = work / f"bench-350m-{kind.lower()}.gguf"
    if path.exists():
        return path
    print(f"writing {path.name} ...", flush=True)
    if kind == "Q8_0":
        write_model(path)
        return path
    source, partial = model_file(work, "Q8_0", programs), path.with_suffix(".partial")
    command = [str(programs / "llama-quantize"), "--allow-requantize", str(source), str(partial), kind]
    subprocess.run(command, check=True, capture_output=True)
    partial.rename(path)
    return path


def write_model(path: Path, shape: Shape | None = None) -> None:
    """Writes the GGUF, about 370 MB for the default shape, under a temporary name first."""
    shape = shape or Shape()
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    _add_metadata(writer, shape)
    _add_tensors(writer, shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)


def _add_metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name("Caravan benchmark")
    writer.add_block_count(shape.n_layer)
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_head)
    writer.add_vocab_size(shape.n_vocab)
    special = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(_N_BYTE_TOKENS)]
    words = [f"\u2581w{i}" for i in range(shape.n_vocab - len(special) - _N_BYTE_TOKENS)]
    unknown, control, byte, normal = (
        gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.BYTE, gguf.TokenType.NORMAL,
    )  # fmt: skip
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*special, *byte_tokens, *words])
    writer.add_token_scores([0.0] * shape.n_vocab)
    writer.add_token_types([unknown, control, control, *[byte] * _N_BYTE_TOKENS, *[normal] * len(words)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _add_tensors(writer: gguf.GGUFWriter, shape: Shape) -> None:
    random = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int) -> None:
        weights = random.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)
        kind = GGMLQuantizationType.Q8_0
        writer.add_tensor(f"{name}.weight", quants.quantize(weights, kind), raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(shape.n_embd, np.float32))

    n_embd_kv = shape.n_embd // shape.n_head * shape.n_head_kv
    matrix("token_embd", shape.n_vocab, shape.n_embd)
    norm("output_norm")
    matrix("output", shape.n_vocab, shape.n_embd)
    for layer in range(shape.n_layer):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        matrix(f"{block}.attn_q", shape.n_embd, shape.n_embd)
        matrix(f"{block}.attn_k", n_embd_kv, shape.n_embd)
        matrix(f"{block}.attn_v", n_embd_kv, shape.n_embd)
        matrix(f"{block}.attn_output", shape.n_embd, shape.n_embd)
        norm(f"{block}.ffn_norm")
        matrix(f"{block}.ffn_gate", shape.n_ff, shape.n_embd)
        matrix(f"{block}.ffn_up", shape.n_ff, shape.n_embd)
        matrix(f"{block}.ffn_down", shape.n_embd, shape.n_ff)
