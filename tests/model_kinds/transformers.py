# SPDX-License-Identifier: MIT
"""Kinds of models whose layers attend: dense and with experts, old and new, and two that no line runs."""

from __future__ import annotations

from collections.abc import Callable

from tests.model_kinds.parts import (
    EXPERT_METADATA,
    N_CTX_TRAIN,
    N_EXPERT,
    Kind,
    Metadata,
    Size,
    Tensors,
    attention,
    attention_metadata,
    ends,
    experts,
    fused,
    gated_ffn,
    shared_expert,
    with_biases,
)


def _llama(tied: bool = False) -> Callable[[Size], Tensors]:
    def tensors(s: Size) -> Tensors:
        result = ends(s, tied=tied)
        if tied:  # Llama 3's frequency factors: one tensor that every layer reads
            result["rope_freqs.weight"] = (s.n_head_dim // 2,)
        for i in range(s.n_layer):
            result |= attention(i, s) | gated_ffn(i, s)
        return result

    return tensors


def _moe(*, qk_norm: bool) -> Callable[[Size], Tensors]:
    def tensors(s: Size) -> Tensors:
        result = ends(s, tied=False)
        for i in range(s.n_layer):
            result |= attention(i, s, qk_norm=qk_norm) | experts(i, s)
        return result

    return tensors


def _qwen3(s: Size) -> Tensors:
    result = ends(s, tied=True)
    for i in range(s.n_layer):
        result |= attention(i, s, qk_norm=True) | gated_ffn(i, s)
    return result


def _post_norms(i: int, s: Size) -> Tensors:
    return {f"blk.{i}.post_attention_norm.weight": (s.n_embd,), f"blk.{i}.post_ffw_norm.weight": (s.n_embd,)}


def _gemma3(s: Size) -> Tensors:
    result = ends(s, tied=True)
    for i in range(s.n_layer):
        result |= attention(i, s, qk_norm=True) | _post_norms(i, s) | gated_ffn(i, s)
    return result


def _glm4moe(s: Size) -> Tensors:
    """The last block predicts a token further ahead (MTP); llama.cpp skips it in normal use."""
    result = ends(s, tied=False)
    for i in range(s.n_layer):
        norm = "post_attention_norm"
        result |= attention(i, s)
        if i == 0:
            result |= gated_ffn(i, s, norm=norm)
        else:
            result |= experts(i, s, norm=norm) | shared_expert(i, s) | {f"blk.{i}.exp_probs_b.bias": (N_EXPERT,)}
    last = f"blk.{s.n_layer - 1}.nextn"
    result |= {f"{last}.eh_proj.weight": (2 * s.n_embd, s.n_embd)}
    return result | {f"{last}.{name}.weight": (s.n_embd,) for name in ("enorm", "hnorm", "shared_head_norm")}


# Sizes of multi-head latent attention: ranks of the compressed Q and KV, head parts without and with rope, V's head.
_RANK_Q, _RANK_KV, _NOPE, _ROPE, _V_MLA = 24, 32, 16, 8, 16


def _deepseek2(s: Size) -> Tensors:
    result = ends(s, tied=False)
    for i in range(s.n_layer):
        result |= {
            f"blk.{i}.attn_norm.weight": (s.n_embd,),
            f"blk.{i}.attn_q_a.weight": (s.n_embd, _RANK_Q),
            f"blk.{i}.attn_q_a_norm.weight": (_RANK_Q,),
            f"blk.{i}.attn_q_b.weight": (_RANK_Q, s.n_head * (_NOPE + _ROPE)),
            f"blk.{i}.attn_kv_a_mqa.weight": (s.n_embd, _RANK_KV + _ROPE),
            f"blk.{i}.attn_kv_a_norm.weight": (_RANK_KV,),
            f"blk.{i}.attn_k_b.weight": (_NOPE, _RANK_KV, s.n_head),
            f"blk.{i}.attn_v_b.weight": (_RANK_KV, _V_MLA, s.n_head),
            f"blk.{i}.attn_output.weight": (s.n_head * _V_MLA, s.n_embd),
        }
        result |= gated_ffn(i, s) if i == 0 else experts(i, s) | shared_expert(i, s)
    return result


def _classic(i: int, s: Size) -> Tensors:
    """A block of GPT-2's time: fused QKV, layer norms, biases everywhere."""
    return with_biases(
        {
            f"blk.{i}.attn_norm.weight": (s.n_embd,),
            f"blk.{i}.attn_qkv.weight": (s.n_embd, 3 * s.n_embd),
            f"blk.{i}.attn_output.weight": (s.n_embd, s.n_embd),
            f"blk.{i}.ffn_norm.weight": (s.n_embd,),
            f"blk.{i}.ffn_up.weight": (s.n_embd, s.n_ff),
            f"blk.{i}.ffn_down.weight": (s.n_ff, s.n_embd),
        }
    )


def _gpt2(s: Size) -> Tensors:
    result = ends(s, tied=True) | {"output_norm.bias": (s.n_embd,), "position_embd.weight": (s.n_embd, N_CTX_TRAIN)}
    for i in range(s.n_layer):
        result |= _classic(i, s)
    return result


def _bloom(s: Size) -> Tensors:
    result = ends(s, tied=False) | {"output_norm.bias": (s.n_embd,)}
    result |= with_biases({"token_embd_norm.weight": (s.n_embd,)})
    for i in range(s.n_layer):
        result |= _classic(i, s)
    return result


def _phi3(s: Size) -> Tensors:
    result = ends(s, tied=False)
    result |= {f"rope_factors_{x}.weight": (s.n_head_dim // 2,) for x in ("long", "short")}
    for i in range(s.n_layer):
        result |= fused(i, s, n_qkv=2 * s.n_embd)
    return result


def _per_layer_inputs(s: Size, width: int) -> Tensors:
    """Gemma's embeddings per layer: computed once in front of the first layer, read in each."""
    result: Tensors = {
        "per_layer_token_embd.weight": (width * s.n_layer, s.n_vocab),
        "per_layer_model_proj.weight": (s.n_embd, width * s.n_layer),
        "per_layer_proj_norm.weight": (width,),
    }
    for i in range(s.n_layer):
        result |= {
            f"blk.{i}.inp_gate.weight": (s.n_embd, width),
            f"blk.{i}.proj.weight": (width, s.n_embd),
            f"blk.{i}.post_norm.weight": (s.n_embd,),
        }
    return result


_GEMMA4_WIDTH = 16
_GEMMA4_SHARED = 3


def _gemma4(s: Size) -> Tensors:
    result = _gemma3(s) | _per_layer_inputs(s, _GEMMA4_WIDTH) | {"rope_freqs.weight": (s.n_head_dim // 2,)}
    return result | {f"blk.{i}.layer_output_scale.weight": (1,) for i in range(s.n_layer)}


# Fixed in llama.cpp: four alternating updates, LAUREL's rank, the width of per-layer inputs.
_N_ALTUP, _RANK_LAUREL, _ALTUP_WIDTH = 4, 64, 256


def _gemma3n(s: Size) -> Tensors:
    e = s.n_embd
    result = _gemma3(s) | _per_layer_inputs(s, _ALTUP_WIDTH)
    result |= {f"altup_{x}.weight": (e, e, _N_ALTUP - 1) for x in ("proj", "unembd_proj")}
    for i in range(s.n_layer):
        result |= {
            f"blk.{i}.altup_correct_coef.weight": (_N_ALTUP, _N_ALTUP),
            f"blk.{i}.altup_correct_scale.weight": (e,),
            f"blk.{i}.altup_predict_coef.weight": (_N_ALTUP, _N_ALTUP * _N_ALTUP),
            f"blk.{i}.altup_router.weight": (e, _N_ALTUP),
            f"blk.{i}.altup_router_norm.weight": (e,),
            f"blk.{i}.laurel_l.weight": (e, _RANK_LAUREL),
            f"blk.{i}.laurel_r.weight": (_RANK_LAUREL, e),
            f"blk.{i}.laurel_post_norm.weight": (e,),
        }
    return result


def _t5(s: Size) -> Tensors:
    """An encoder beside a decoder."""
    result: Tensors = {"token_embd.weight": (s.n_embd, s.n_vocab)}
    projections: Tensors = dict.fromkeys("qkvo", (s.n_embd, s.n_embd))
    for side in ("enc", "dec"):
        result |= {f"{side}.output_norm.weight": (s.n_embd,)}
        for i in range(s.n_layer):
            parts = ("attn", "cross_attn") if side == "dec" else ("attn",)
            for part in parts:
                result |= {f"{side}.blk.{i}.{part}_{x}.weight": ne for x, ne in projections.items()}
                result |= {f"{side}.blk.{i}.{part}_norm.weight": (s.n_embd,)}
            result |= {
                f"{side}.blk.{i}.attn_rel_b.weight": (s.n_head, 8),
                f"{side}.blk.{i}.ffn_norm.weight": (s.n_embd,),
                f"{side}.blk.{i}.ffn_up.weight": (s.n_embd, s.n_ff),
                f"{side}.blk.{i}.ffn_down.weight": (s.n_ff, s.n_embd),
            }
    return result


def _layer_norm_metadata(s: Size) -> Metadata:
    return {"attention.head_count": s.n_head, "attention.layer_norm_epsilon": 1e-5}


def _gemma_metadata(s: Size) -> Metadata:
    # A window shorter than the prompts of the conformance tests.
    return attention_metadata(s) | {"attention.sliding_window": 24}


def _deepseek2_metadata(s: Size) -> Metadata:
    return EXPERT_METADATA | {
        "attention.head_count": s.n_head,
        "attention.head_count_kv": 1,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.q_lora_rank": _RANK_Q,
        "attention.kv_lora_rank": _RANK_KV,
        "attention.key_length": _RANK_KV + _ROPE,
        "attention.value_length": _RANK_KV,
        "attention.key_length_mla": _NOPE + _ROPE,
        "attention.value_length_mla": _V_MLA,
        "rope.dimension_count": _ROPE,
        "leading_dense_block_count": 1,
        "expert_feed_forward_length": s.n_ff,
        "expert_shared_count": 1,
        "expert_weights_scale": 1.5,
        "expert_gating_func": 2,
    }


def _glm4moe_metadata(s: Size) -> Metadata:
    return attention_metadata(s) | EXPERT_METADATA | {
        "nextn_predict_layers": 1,
        "leading_dense_block_count": 1,
        "expert_feed_forward_length": s.n_ff,
        "expert_shared_count": 1,
        "expert_gating_func": 2,
    }  # fmt: skip


def _gemma4_metadata(s: Size) -> Metadata:
    return _gemma_metadata(s) | {
        "attention.sliding_window_pattern": [i % 3 != 2 for i in range(s.n_layer)],
        "attention.shared_kv_layers": _GEMMA4_SHARED,
        "attention.key_length_swa": s.n_head_dim,
        "attention.value_length_swa": s.n_head_dim,
        "embedding_length_per_layer_input": _GEMMA4_WIDTH,
    }


TRANSFORMERS: dict[str, Kind] = {
    "llama": Kind("llama", "plain, output of its own", attention_metadata, _llama()),
    "llama-tied": Kind("llama", "output tied to the embedding, shared rope factors", attention_metadata, _llama(True)),
    "llama-moe": Kind("llama", "experts", lambda s: attention_metadata(s) | EXPERT_METADATA, _moe(qk_norm=False)),
    "qwen3": Kind("qwen3", "norms on Q and K, tied", attention_metadata, _qwen3),
    "qwen3moe": Kind(
        "qwen3moe",
        "experts, norms on Q and K",
        lambda s: attention_metadata(s) | EXPERT_METADATA | {"expert_feed_forward_length": s.n_ff},
        _moe(qk_norm=True),
    ),
    "gemma3": Kind(
        "gemma3",
        "sliding window, norms behind attention and network, tied",
        lambda s: _gemma_metadata(s) | {"attention.sliding_window_pattern": 3},
        _gemma3,
    ),
    "gemma3n": Kind(
        "gemma3n",
        "four residual streams, inputs per layer, later layers read the KV of earlier ones",
        lambda s: _gemma_metadata(s) | {"attention.sliding_window_pattern": 5},
        _gemma3n,
        Size(n_layer=22, n_embd=32, n_vocab=64),  # the KV is shared from layer 20 on
    ),
    "gemma4": Kind("gemma4", "inputs per layer, later layers read the KV of earlier ones", _gemma4_metadata, _gemma4),
    "deepseek2": Kind("deepseek2", "multi-head latent attention, experts", _deepseek2_metadata, _deepseek2),
    "glm4moe": Kind("glm4moe", "a block that llama.cpp skips behind the layers", _glm4moe_metadata, _glm4moe, Size(5)),
    "phi3": Kind("phi3", "fused QKV, fused gate, two sets of rope factors", attention_metadata, _phi3),
    "gpt2": Kind("gpt2", "learned positions, biases, tied", _layer_norm_metadata, _gpt2),
    "bloom": Kind("bloom", "ALiBi, a norm behind the embedding", _layer_norm_metadata, _bloom),
}

# What a line refuses, or cannot be asked to generate.
REFUSED: dict[str, Kind] = {
    "hrm_text": Kind("hrm_text", "runs its layers in a loop", attention_metadata, _llama()),
    "nanbeige": Kind("nanbeige", "runs its layers twice", lambda s: attention_metadata(s) | {"num_loops": 2}, _llama()),
    "t5": Kind(
        "t5",
        "an encoder beside the decoder",
        lambda s: attention_metadata(s) | {"attention.head_count_kv": s.n_head, "attention.relative_buckets_count": 8},
        _t5,
        Size(4),
    ),
}
