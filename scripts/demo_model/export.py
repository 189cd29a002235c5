# SPDX-License-Identifier: MIT
"""The trained model as a GGUF file that llama.cpp loads as it is: matrices in Q8_0, norms in float32."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import gguf
from tokenizers import Tokenizer
from torch import Tensor

from .model import DemoModel
from .tokenizer import BOS, CHAT_TEMPLATE, END_OF_TURN, EOS, SPECIAL, tokens_and_merges

_DESCRIPTION = "A very small storyteller, trained from nothing on made-up stories by scripts/train_demo_model."
_LAYER_TENSORS = {
    "attention_norm": "attn_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.output": "attn_output",
    "ffn_norm": "ffn_norm",
    "ffn.gate": "ffn_gate",
    "ffn.up": "ffn_up",
    "ffn.down": "ffn_down",
}
"""The model's names of a layer's parts, and GGUF's."""


def write_gguf(model: DemoModel, tokenizer: Tokenizer, path: Path, *, quantized: bool = True) -> None:
    """Write the model to `path`, which appears only when it is whole.

    Args:
        quantized: matrices as Q8_0; otherwise everything is float32, to compare with PyTorch.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        writer = gguf.GGUFWriter(partial, "llama")
        _add_metadata(writer, model, quantized)
        _add_tokenizer(writer, tokenizer)
        for name, weight in _tensors_of(model):
            values = weight.detach().numpy()
            if quantized and values.ndim == 2:
                kind = gguf.GGMLQuantizationType.Q8_0
                writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
            else:
                writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _tensors_of(model: DemoModel) -> Iterator[tuple[str, Tensor]]:
    """The weights by their GGUF names; without an output matrix llama.cpp takes the embedding's, as we do."""
    yield "token_embd.weight", model.embedding.weight
    yield "output_norm.weight", model.output_norm.weight
    for il, layer in enumerate(model.layers):
        weights = dict(layer.named_parameters())
        for ours, theirs in _LAYER_TENSORS.items():
            yield f"blk.{il}.{theirs}.weight", weights[f"{ours}.weight"]


def _add_metadata(writer: gguf.GGUFWriter, model: DemoModel, quantized: bool) -> None:
    shape = model.shape
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("Caravan demo")
    writer.add_description(_DESCRIPTION)
    writer.add_license("MIT")
    writer.add_languages(["en"])
    writer.add_size_label(f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f}M")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantized else gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.head_size)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    tokens, merges = tokens_and_merges(tokenizer)
    kinds = [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index(BOS))
    writer.add_eos_token_id(tokens.index(EOS))
    writer.add_eot_token_id(tokens.index(END_OF_TURN))
    writer.add_pad_token_id(tokens.index(EOS))
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
