# SPDX-License-Identifier: MIT
"""What kinds of models are made of: a size, a kind, and the tensors that many architectures share.

Source: src/llama-arch.cpp (names) and src/models/*.cpp (shapes) in llama.cpp as vendored in llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# A GGUF value; an int becomes uint32, a float float32. Keys are written behind "ARCHITECTURE.".
Value = bool | int | float | str | Sequence[int] | Sequence[str]
Metadata = dict[str, Value]
# Tensors by name, each with ggml's ne[]: the contiguous dimension first, as llama.cpp's sources write shapes.
Tensors = dict[str, tuple[int, ...]]

N_CTX_TRAIN = 512
N_EXPERT = 4


@dataclass(frozen=True, slots=True)
class Size:
    """What can be chosen of a model. `n_head` is 4, half of them for K and V; `n_ff` is twice `n_embd`."""

    n_layer: int
    n_embd: int = 64
    n_vocab: int = 96

    n_head = 4
    n_head_kv = 2

    @property
    def n_ff(self) -> int:
        """Width of the feed-forward network."""
        return 2 * self.n_embd

    @property
    def n_head_dim(self) -> int:
        """Width of an attention head."""
        return self.n_embd // self.n_head


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of model: what it is here for, and how it looks at a given size."""

    architecture: str
    what: str
    metadata: Callable[[Size], Metadata]
    tensors: Callable[[Size], Tensors]
    # Six layers allow cuts for two, three and four stages.
    size: Size = Size(n_layer=6)
    # Written beside a vocabulary with text, keys in full.
    vocabulary: Metadata = field(default_factory=dict)


def attention(i: int, s: Size, *, qk_norm: bool = False) -> Tensors:
    """Grouped-query attention with its norm in front; with `qk_norm` norms on Q and K too."""
    kv = s.n_head_kv * s.n_head_dim
    norms: Tensors = {f"blk.{i}.attn_{x}_norm.weight": (s.n_head_dim,) for x in ("q", "k")} if qk_norm else {}
    return {
        f"blk.{i}.attn_norm.weight": (s.n_embd,),
        f"blk.{i}.attn_q.weight": (s.n_embd, s.n_embd),
        f"blk.{i}.attn_k.weight": (s.n_embd, kv),
        f"blk.{i}.attn_v.weight": (s.n_embd, kv),
        f"blk.{i}.attn_output.weight": (s.n_embd, s.n_embd),
        **norms,
    }


def fused(i: int, s: Size, *, n_qkv: int) -> Tensors:
    """A layer whose Q, K and V are one tensor, and whose gate is one with what it gates; norms in front."""
    return {
        f"blk.{i}.attn_norm.weight": (s.n_embd,),
        f"blk.{i}.attn_qkv.weight": (s.n_embd, n_qkv),
        f"blk.{i}.attn_output.weight": (s.n_embd, s.n_embd),
        f"blk.{i}.ffn_norm.weight": (s.n_embd,),
        f"blk.{i}.ffn_up.weight": (s.n_embd, 2 * s.n_ff),
        f"blk.{i}.ffn_down.weight": (s.n_ff, s.n_embd),
    }


def gated_ffn(i: int, s: Size, *, norm: str = "ffn_norm") -> Tensors:
    """A gated feed-forward network with its norm in front."""
    return {
        f"blk.{i}.{norm}.weight": (s.n_embd,),
        f"blk.{i}.ffn_gate.weight": (s.n_embd, s.n_ff),
        f"blk.{i}.ffn_up.weight": (s.n_embd, s.n_ff),
        f"blk.{i}.ffn_down.weight": (s.n_ff, s.n_embd),
    }


def experts(i: int, s: Size, *, norm: str = "ffn_norm") -> Tensors:
    """A router and its experts with their norm in front."""
    return {
        f"blk.{i}.{norm}.weight": (s.n_embd,),
        f"blk.{i}.ffn_gate_inp.weight": (s.n_embd, N_EXPERT),
        f"blk.{i}.ffn_gate_exps.weight": (s.n_embd, s.n_ff, N_EXPERT),
        f"blk.{i}.ffn_up_exps.weight": (s.n_embd, s.n_ff, N_EXPERT),
        f"blk.{i}.ffn_down_exps.weight": (s.n_ff, s.n_embd, N_EXPERT),
    }


def shared_expert(i: int, s: Size) -> Tensors:
    """The expert that takes part in every token."""
    return {
        f"blk.{i}.ffn_gate_shexp.weight": (s.n_embd, s.n_ff),
        f"blk.{i}.ffn_up_shexp.weight": (s.n_embd, s.n_ff),
        f"blk.{i}.ffn_down_shexp.weight": (s.n_ff, s.n_embd),
    }


def ends(s: Size, *, tied: bool, output_norm: str = "output_norm") -> Tensors:
    """Embedding, output and its norm; a tied output is the embedding."""
    output: Tensors = {} if tied else {"output.weight": (s.n_embd, s.n_vocab)}
    return {"token_embd.weight": (s.n_embd, s.n_vocab), f"{output_norm}.weight": (s.n_embd,), **output}


def with_biases(tensors: Tensors) -> Tensors:
    """A bias beside every weight of these, as wide as the weight's output."""
    return tensors | {name.replace(".weight", ".bias"): ne[-1:] for name, ne in tensors.items()}


def attention_metadata(s: Size) -> Metadata:
    """What `attention` needs to be told."""
    return {
        "attention.head_count": s.n_head,
        "attention.head_count_kv": s.n_head_kv,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.key_length": s.n_head_dim,
        "attention.value_length": s.n_head_dim,
    }


EXPERT_METADATA: Metadata = {"expert_count": N_EXPERT, "expert_used_count": 2}
