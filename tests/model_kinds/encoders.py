# SPDX-License-Identifier: MIT
"""Kinds of models that make embeddings and no text: every layer looks both ways, and none has a cache."""

from __future__ import annotations

from tests.model_kinds.parts import (
    EXPERT_METADATA,
    N_CTX_TRAIN,
    Kind,
    Metadata,
    Size,
    Tensors,
    attention,
    attention_metadata,
    experts,
    fused,
    gated_ffn,
    with_biases,
)

_MEAN, _CLS, _LAST = 1, 2, 3
"""Source: enum llama_pooling_type in include/llama.h."""


def _metadata(s: Size, pooling: int) -> Metadata:
    return {
        "attention.head_count": s.n_head,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.causal": False,
        "pooling_type": pooling,
    }


def _front(s: Size) -> Tensors:
    return {
        "token_embd.weight": (s.n_embd, s.n_vocab),
        "token_types.weight": (s.n_embd, 2),
        **with_biases({"token_embd_norm.weight": (s.n_embd,)}),
    }


def _norms_behind(i: int, s: Size) -> Tensors:
    return with_biases({f"blk.{i}.{x}.weight": (s.n_embd,) for x in ("attn_output_norm", "layer_output_norm")})


def _biased(i: int, s: Size) -> Tensors:
    """A block of BERT's time, with biases everywhere."""
    block: Tensors = {f"blk.{i}.attn_{x}.weight": (s.n_embd, s.n_embd) for x in ("q", "k", "v", "output")}
    block |= {f"blk.{i}.ffn_up.weight": (s.n_embd, s.n_ff), f"blk.{i}.ffn_down.weight": (s.n_ff, s.n_embd)}
    return with_biases(block) | _norms_behind(i, s)


def _bert(s: Size) -> Tensors:
    result = _jina_v3(s)
    return result | {"position_embd.weight": (s.n_embd, N_CTX_TRAIN)}


def _jina_v3(s: Size) -> Tensors:
    result = _front(s)
    for i in range(s.n_layer):
        result |= _biased(i, s)
    return result


def _jina_v2(s: Size) -> Tensors:
    result = _front(s)
    for i in range(s.n_layer):
        result |= _biased(i, s) | {f"blk.{i}.ffn_gate.weight": (s.n_embd, s.n_ff)}
        result |= with_biases({f"blk.{i}.attn_{x}_norm.weight": (s.n_embd,) for x in ("q", "k")})
        del result[f"blk.{i}.ffn_up.bias"]
    return result


def _nomic_moe(s: Size) -> Tensors:
    result = _front(s)
    for i in range(s.n_layer):
        result |= _biased(i, s)
        if i % 2 == 1:
            result = {name: ne for name, ne in result.items() if not name.startswith(f"blk.{i}.ffn_")}
            routed = {name: ne for name, ne in experts(i, s).items() if "norm" not in name and "gate_exps" not in name}
            result |= routed
    return result


def _neo_bert(s: Size) -> Tensors:
    result: Tensors = {"token_embd.weight": (s.n_embd, s.n_vocab), "enc.output_norm.weight": (s.n_embd,)}
    for i in range(s.n_layer):
        result |= fused(i, s, n_qkv=3 * s.n_embd)
    return result


def _nomic_bert(s: Size) -> Tensors:
    result = _front(s)
    for i in range(s.n_layer):
        result |= {
            f"blk.{i}.attn_qkv.weight": (s.n_embd, 3 * s.n_embd),
            f"blk.{i}.attn_output.weight": (s.n_embd, s.n_embd),
            f"blk.{i}.ffn_gate.weight": (s.n_embd, s.n_ff),
            f"blk.{i}.ffn_up.weight": (s.n_embd, s.n_ff),
            f"blk.{i}.ffn_down.weight": (s.n_ff, s.n_embd),
            **_norms_behind(i, s),
        }
    return result


def _modern_bert(s: Size) -> Tensors:
    result: Tensors = {"token_embd.weight": (s.n_embd, s.n_vocab), "output_norm.weight": (s.n_embd,)}
    result["token_embd_norm.weight"] = (s.n_embd,)
    for i in range(s.n_layer):
        result |= fused(i, s, n_qkv=3 * s.n_embd)
    del result["blk.0.attn_norm.weight"]
    return result


def _eurobert(s: Size) -> Tensors:
    result: Tensors = {"token_embd.weight": (s.n_embd, s.n_vocab), "output_norm.weight": (s.n_embd,)}
    for i in range(s.n_layer):
        result |= attention(i, s) | gated_ffn(i, s)
    return result


def _gemma_embedding(s: Size) -> Tensors:
    """With the two projections behind its pooling that sentence-transformers adds."""
    result: Tensors = {"token_embd.weight": (s.n_embd, s.n_vocab), "output_norm.weight": (s.n_embd,)}
    result |= {"dense_2.weight": (s.n_embd, s.n_ff), "dense_3.weight": (s.n_ff, s.n_embd)}
    for i in range(s.n_layer):
        result |= attention(i, s, qk_norm=True) | gated_ffn(i, s)
        result |= {f"blk.{i}.post_attention_norm.weight": (s.n_embd,), f"blk.{i}.post_ffw_norm.weight": (s.n_embd,)}
    return result


def _gemma_metadata(s: Size) -> Metadata:
    return attention_metadata(s) | {
        "attention.sliding_window": 24,
        "pooling_type": _MEAN,
        **{f"dense_{number}_feat_{end}": width for number, end, width in _dense(s)},
    }


def _dense(s: Size) -> list[tuple[int, str, int]]:
    return [(2, "in", s.n_embd), (2, "out", s.n_ff), (3, "in", s.n_ff), (3, "out", s.n_embd)]


ENCODERS: dict[str, Kind] = {
    "bert": Kind("bert", "learned positions, biases, norms behind", lambda s: _metadata(s, _CLS), _bert, Size(4)),
    "nomic-bert": Kind(
        "nomic-bert",
        "rope, a gated network, norms behind",
        lambda s: _metadata(s, _MEAN) | {"rope.freq_base": 1000.0},
        _nomic_bert,
        Size(4),
    ),
    "nomic-bert-moe": Kind(
        "nomic-bert-moe",
        "experts in every other layer",
        lambda s: (
            _metadata(s, _MEAN) | EXPERT_METADATA | {"moe_every_n_layers": 2, "expert_feed_forward_length": s.n_ff}
        ),
        _nomic_moe,
        Size(4),
    ),
    "jina-bert-v2": Kind("jina-bert-v2", "ALiBi, norms on Q and K", lambda s: _metadata(s, _MEAN), _jina_v2, Size(4)),
    "jina-bert-v3": Kind("jina-bert-v3", "rope, biases", lambda s: _metadata(s, _MEAN), _jina_v3, Size(4)),
    "neo-bert": Kind(
        "neo-bert",
        "fused QKV and gate, an output norm of its own name",
        lambda s: _metadata(s, _CLS) | {"attention.layer_norm_rms_epsilon": 1e-5},
        _neo_bert,
        Size(4),
    ),
    "modern-bert": Kind(
        "modern-bert",
        "norms in front, a window in most layers",
        lambda s: _metadata(s, _CLS) | {"attention.sliding_window": 16, "rope.freq_base_swa": 1000.0},
        _modern_bert,
        Size(6),
    ),
    "eurobert": Kind(
        "eurobert",
        "a llama that looks both ways",
        lambda s: attention_metadata(s) | {"attention.causal": False, "pooling_type": _LAST},
        _eurobert,
        Size(4),
    ),
    "gemma-embedding": Kind(
        "gemma-embedding",
        "a gemma that looks both ways, projections behind",
        _gemma_metadata,
        _gemma_embedding,
    ),
}
