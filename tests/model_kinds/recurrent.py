# SPDX-License-Identifier: MIT
"""Kinds of models that carry a state instead of, or beside, a KV cache."""

from __future__ import annotations

from tests.model_kinds.parts import (
    Kind,
    Metadata,
    Size,
    Tensors,
    attention,
    attention_metadata,
    ends,
    gated_ffn,
    with_biases,
)

_D_STATE, _DT_RANK, _D_CONV, _N_GROUP = 16, 8, 4, 2


def _mamba(s: Size) -> Tensors:
    inner = 2 * s.n_embd
    result = ends(s, tied=True)
    for i in range(s.n_layer):
        result |= {
            f"blk.{i}.attn_norm.weight": (s.n_embd,),
            f"blk.{i}.ssm_in.weight": (s.n_embd, 2 * inner),
            f"blk.{i}.ssm_conv1d.weight": (_D_CONV, inner),
            f"blk.{i}.ssm_conv1d.bias": (inner,),
            f"blk.{i}.ssm_x.weight": (inner, _DT_RANK + 2 * _D_STATE),
            f"blk.{i}.ssm_dt.weight": (_DT_RANK, inner),
            f"blk.{i}.ssm_dt.bias": (inner,),
            f"blk.{i}.ssm_a": (_D_STATE, inner),
            f"blk.{i}.ssm_d": (inner,),
            f"blk.{i}.ssm_out.weight": (inner, s.n_embd),
        }
    return result


def _ssm_metadata(s: Size, *, n_group: int = 0) -> Metadata:
    return {
        "ssm.conv_kernel": _D_CONV,
        "ssm.inner_size": 2 * s.n_embd,
        "ssm.state_size": _D_STATE,
        "ssm.time_step_rank": _DT_RANK,
        "ssm.group_count": n_group,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }


def _heads_kv(s: Size) -> list[int]:
    """Every third layer attends, the others have no KV heads: they are recurrent or convolve."""
    return [s.n_head_kv if i % 3 == 2 else 0 for i in range(s.n_layer)]


def _granitehybrid(s: Size) -> Tensors:
    inner = 2 * s.n_embd
    conv = inner + 2 * _N_GROUP * _D_STATE
    result = ends(s, tied=True)
    for i, n_head_kv in enumerate(_heads_kv(s)):
        result |= gated_ffn(i, s)
        result |= attention(i, s) if n_head_kv else {
            f"blk.{i}.attn_norm.weight": (s.n_embd,),
            f"blk.{i}.ssm_in.weight": (s.n_embd, inner + conv + _DT_RANK),
            f"blk.{i}.ssm_conv1d.weight": (_D_CONV, conv),
            f"blk.{i}.ssm_conv1d.bias": (conv,),
            f"blk.{i}.ssm_dt.bias": (_DT_RANK,),
            f"blk.{i}.ssm_a": (1, _DT_RANK),
            f"blk.{i}.ssm_d": (1, _DT_RANK),
            f"blk.{i}.ssm_norm.weight": (inner // _N_GROUP, _N_GROUP),
            f"blk.{i}.ssm_out.weight": (inner, s.n_embd),
        }  # fmt: skip
    return result


def _lfm2(s: Size) -> Tensors:
    result = ends(s, tied=True, output_norm="token_embd_norm")
    for i, n_head_kv in enumerate(_heads_kv(s)):
        result |= gated_ffn(i, s)
        result |= attention(i, s, qk_norm=True) if n_head_kv else {
            f"blk.{i}.attn_norm.weight": (s.n_embd,),
            f"blk.{i}.shortconv.conv.weight": (3, s.n_embd),
            f"blk.{i}.shortconv.in_proj.weight": (s.n_embd, 3 * s.n_embd),
            f"blk.{i}.shortconv.out_proj.weight": (s.n_embd, s.n_embd),
        }  # fmt: skip
    return result


# llama.cpp's kernels take 64 values of a head at a time where the CPU can, and do not look whether there are as many.
_WKV_HEAD, _RANK_RWKV = 64, 16
_RWKV_SIZE = Size(n_layer=4, n_embd=2 * _WKV_HEAD)


def _rwkv7(s: Size) -> Tensors:
    e, r = s.n_embd, _RANK_RWKV
    result = with_biases(ends(s, tied=False) | {"token_embd_norm.weight": (e,)})
    del result["token_embd.bias"], result["output.bias"]
    for i in range(s.n_layer):
        block: Tensors = {f"time_mix_{x}{n}.weight": (e,) for x, n in ("w0", "a0", "v0")}
        block |= {f"time_mix_{x}1.weight": (e, r) for x in "wavg"}
        block |= {f"time_mix_{x}2.weight": (r, e) for x in "wavg"}
        block |= {f"time_mix_{x}.weight": (e,) for x in ("k_k", "k_a", "r_k")}
        block |= {f"time_mix_{x}.weight": (e, e) for x in ("key", "value", "receptance", "output")}
        block |= with_biases({f"{x}.weight": (e,) for x in ("attn_norm", "attn_norm_2", "time_mix_ln")})
        block |= {
            "time_mix_lerp_fused.weight": (e, 1, 1, 6),
            "channel_mix_lerp_k.weight": (e, 1, 1),
            "channel_mix_key.weight": (e, s.n_ff),
            "channel_mix_value.weight": (s.n_ff, e),
        }
        result |= {f"blk.{i}.{name}": ne for name, ne in block.items()}
    return result


def _rwkv6(s: Size) -> Tensors:
    e, r = s.n_embd, _RANK_RWKV
    result = with_biases(ends(s, tied=False) | {"token_embd_norm.weight": (e,)})
    del result["token_embd.bias"], result["output.bias"]
    for i in range(s.n_layer):
        block: Tensors = {f"time_mix_{x}.weight": (e, e) for x in ("key", "value", "receptance", "gate", "output")}
        block |= with_biases({f"{x}.weight": (e,) for x in ("attn_norm", "attn_norm_2", "time_mix_ln")})
        block |= {
            "time_mix_w1.weight": (e, 5 * r),
            "time_mix_w2.weight": (r, e, 5),
            "time_mix_lerp_x.weight": (e, 1, 1),
            "time_mix_lerp_fused.weight": (e, 1, 1, 5),
            "time_mix_first.weight": (_WKV_HEAD, e // _WKV_HEAD),
            "time_mix_decay.weight": (e,),
            "time_mix_decay_w1.weight": (e, r),
            "time_mix_decay_w2.weight": (r, e),
            "channel_mix_lerp_k.weight": (e, 1, 1),
            "channel_mix_lerp_r.weight": (e, 1, 1),
            "channel_mix_key.weight": (e, s.n_ff),
            "channel_mix_value.weight": (s.n_ff, e),
            "channel_mix_receptance.weight": (e, e),
        }
        result |= {f"blk.{i}.{name}": ne for name, ne in block.items()}
    return result


def _rwkv_metadata(_: Size) -> Metadata:
    ranks = ("decay", "iclr", "value_residual_mix", "gate")
    lora: Metadata = {f"attention.{name}_lora_rank": _RANK_RWKV for name in ranks}
    return lora | {
        "attention.head_count": 0,
        "attention.layer_norm_epsilon": 1e-5,
        "wkv.head_size": _WKV_HEAD,
        "token_shift_count": 2,
        "time_mix_extra_dim": _RANK_RWKV,
        "time_decay_extra_dim": _RANK_RWKV,
        "rescale_every_n_layers": 2,
    }


def _granitehybrid_metadata(s: Size) -> Metadata:
    return attention_metadata(s) | _ssm_metadata(s, n_group=_N_GROUP) | {"attention.head_count_kv": _heads_kv(s)}


RECURRENT: dict[str, Kind] = {
    "mamba": Kind("mamba", "recurrent, tied", _ssm_metadata, _mamba),
    "rwkv6": Kind("rwkv6", "recurrent, halves its hidden state every other layer", _rwkv_metadata, _rwkv6, _RWKV_SIZE),
    "rwkv7": Kind("rwkv7", "recurrent; all layers read a value that layer 0 made", _rwkv_metadata, _rwkv7, _RWKV_SIZE),
    "granitehybrid": Kind("granitehybrid", "Mamba 2 beside attention", _granitehybrid_metadata, _granitehybrid),
    "lfm2": Kind(
        "lfm2",
        "short convolutions beside attention; its output norm has the name of an embedding norm",
        lambda s: attention_metadata(s) | {"attention.head_count_kv": _heads_kv(s), "shortconv.l_cache": 3},
        _lfm2,
    ),
}
