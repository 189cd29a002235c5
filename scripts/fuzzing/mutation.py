# SPDX-License-Identifier: MIT
"""Changes a GGUF header as somebody would who knows its format: one field at a time, the rest as it was. Pure.

What only flips bytes dies at the magic or at the first length; this gets behind every check that comes before.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from fuzzing.header import ARRAY, SCALAR_BYTES, STRING, Header, Pair, Tensor, parse, text, u32, u64

# Counts, lengths and numbers where readers go wrong.
NUMBERS = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 63, 64, 255, 256, 511, 512, 513, 1024, 1025, 65535, 65536, 65537),
    *((1 << n) + d for n in (24, 28, 30, 31, 32, 40, 48, 60, 61, 62, 63, 64) for d in (-1, 0, 1)),
    *(-2, -32, (1 << 64) // 18, (1 << 64) // 18 // 32 * 32 + 32, (1 << 63) // 9 // 32 * 32 + 32),
)
# What a file, ggml or llama.cpp is asked for, with every architecture's name before.
_ARCHITECTURE_KEYS = (
    *("block_count", "embedding_length", "context_length", "feed_forward_length", "vocab_size", "num_loops"),
    *("nextn_predict_layers", "expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count"),
    *("expert_shared_count", "expert_feed_forward_length", "leading_dense_block_count", "expert_weights_scale"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.sliding_window"),
    *("attention.sliding_window_pattern", "attention.causal", "attention.q_lora_rank", "attention.kv_lora_rank"),
    *("attention.key_length_mla", "attention.value_length_mla", "attention.shared_kv_layers", "pooling_type"),
    *("rope.dimension_count", "rope.dimension_sections", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor"),
    *("rope.scaling.original_context_length", "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size"),
    *("ssm.time_step_rank", "ssm.group_count", "wkv.head_size", "time_mix_extra_dim", "token_shift_count"),
    *(
        "embedding_length_out",
        "embedding_length_per_layer_input",
        "full_attention_interval",
        "activation_sparsity_scale",
    ),
    *("altup.active_idx", "altup.num_inputs", "shortconv.l_cache", "kda.head_dim", "expert_gating_func"),
)
_KEYS = (
    *("general.architecture", "general.name", "general.alignment", "general.file_type", "general.quantization_version"),
    *("split.no", "split.count", "split.tensors.count", "general.type", "general.basename"),
    *("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"),
    *("tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.token_type_count"),
    *("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.unknown_token_id"),
    *("tokenizer.ggml.padding_token_id", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.precompiled_charsmap"),
    *("tokenizer.ggml.suppress_tokens", "tokenizer.chat_template", "tokenizer.ggml.add_space_prefix"),
)
_TEXTS = (
    *(b"", b"llama", b"qwen3moe", b"gemma3n", b"mamba", b"rwkv7", b"deepseek2", b"bert", b"clip", b"t5", b"grok"),
    *(b"no_vocab", b"none", b"gpt2", b"rwkv", b"plamo2", b"gemma4", b"default", b"linear", b"yarn", b"\x00"),
    *(b"a\x00b", b"\xff\xfe\x80", b"%s%n%d", b"x" * 70, b"y" * 5000, "\u2581\U0001f4a3".encode(), b"../../x"),
)

# How often a header is made good again behind what was changed in it.
_SETTLED = 0.7
_DEFAULT_ALIGNMENT = 32
_MAX_PADDING_BYTES = 1 << 16
_U32 = 4

Mutation = Callable[[Header, random.Random], None]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A header that differs from `data` in one thing or in a few, and may be none any more."""
    header = parse(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5))):
        chance.choice((*_MEANINGS, *_LIES))(header, chance)
    if chance.random() < _SETTLED:
        settle(header)
    return header.to_bytes()


def reword(data: bytes, chance: random.Random) -> bytes:
    """A header that says something else than `data`, and is in order as such."""
    header = parse(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chance.choice(_MEANINGS)(header, chance)
    settle(header)
    return header.to_bytes()


def settle(header: Header) -> None:
    """Puts tensors one behind the other, and the data where the alignment wants it: else one new key ends it all."""
    alignment, offset = _DEFAULT_ALIGNMENT, 0
    for pair in header.pairs:
        if pair.key == b"general.alignment" and pair.kind == _U32 and [len(item) for item in pair.items] == [4]:
            alignment = int.from_bytes(pair.items[0], "little") or 1
    for tensor in header.tensors:
        tensor.offset = offset
        offset += -(-_n_bytes(tensor) // alignment) * alignment
    header.rest = b""
    header.rest = bytes(min(-len(header.to_bytes()) % alignment, _MAX_PADDING_BYTES))


def _n_bytes(tensor: Tensor) -> int:
    try:
        n_block, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
    except ValueError:
        return 0
    return math.prod(tensor.dims) // n_block * n_bytes


def _number(chance: random.Random, near: int = 0) -> int:
    return chance.choice(
        (chance.choice(NUMBERS), near + chance.randint(-2, 2), chance.getrandbits(chance.choice((8, 32, 64))))
    )


def _value(kind: int, chance: random.Random) -> bytes:
    if kind == STRING:
        return text(chance.choice(_TEXTS))
    return u64(_number(chance))[: SCALAR_BYTES.get(kind, chance.randint(0, 16))]


def _any_key(header: Header, chance: random.Random) -> bytes:
    names = [pair.items[0][8:] for pair in header.pairs if pair.key == b"general.architecture" and pair.items]
    architecture = names[0] if names else b"llama"
    if chance.random() < 0.5:
        return architecture + b"." + chance.choice(_ARCHITECTURE_KEYS).encode()
    return chance.choice((*(key.encode() for key in _KEYS), *_TEXTS))


def _pick(of: Sequence[Pair] | Sequence[Tensor], chance: random.Random) -> int | None:
    return chance.randrange(len(of)) if of else None


def _new_pair(key: bytes, chance: random.Random) -> Pair:
    kind = chance.choice((*SCALAR_BYTES, STRING, STRING, ARRAY, ARRAY, 4, 4))
    if kind != ARRAY:
        return Pair(key, kind, [_value(kind, chance)])
    item_kind = chance.choice((*SCALAR_BYTES, STRING, STRING, 4, 5, 6))
    count = chance.choice((0, 1, 2, 3, 4, 16, 300))
    return Pair(key, kind, [_value(item_kind, chance) for _ in range(count)], item_kind)


def _a_value_is_another(header: Header, chance: random.Random) -> None:
    at = _pick(header.pairs, chance)
    if at is not None and header.pairs[at].items:
        pair = header.pairs[at]
        kind = pair.kind if pair.item_kind is None else pair.item_kind
        pair.items[chance.randrange(len(pair.items))] = _value(kind, chance)


def _a_value_is_of_another_kind(header: Header, chance: random.Random) -> None:
    at = _pick(header.pairs, chance)
    if at is not None:
        header.pairs[at] = _new_pair(header.pairs[at].key, chance)


def _a_pair_comes(header: Header, chance: random.Random) -> None:
    header.pairs.insert(chance.randint(0, len(header.pairs)), _new_pair(_any_key(header, chance), chance))


def _a_pair_goes(header: Header, chance: random.Random) -> None:
    at = _pick(header.pairs, chance)
    if at is not None:
        del header.pairs[at]


def _a_key_is_another(header: Header, chance: random.Random) -> None:
    at = _pick(header.pairs, chance)
    if at is not None:
        header.pairs[at].key = _any_key(header, chance)


def _an_array_is_longer_or_shorter(header: Header, chance: random.Random) -> None:
    arrays = [pair for pair in header.pairs if pair.item_kind is not None and pair.items]
    if arrays:
        pair = chance.choice(arrays)
        if chance.random() < 0.5:
            del pair.items[chance.randrange(len(pair.items)) :]
        else:
            pair.items += [chance.choice(pair.items)] * chance.choice((1, 2, 100))


def _a_type_is_another(header: Header, chance: random.Random) -> None:
    at = _pick(header.pairs, chance)
    if at is not None:
        pair = header.pairs[at]
        if pair.item_kind is not None and chance.random() < 0.5:
            pair.item_kind = chance.choice((*range(14), _number(chance)))
        else:
            pair.kind = chance.choice((*range(14), _number(chance)))


def _a_length_lies(header: Header, chance: random.Random) -> None:
    at = _pick(header.pairs, chance)
    if at is not None:
        pair = header.pairs[at]
        target = chance.randrange(3)
        if target == 0:
            pair.key_length = _number(chance, len(pair.key))
        elif target == 1 and pair.item_kind is not None:
            pair.count = _number(chance, len(pair.items))
        elif pair.items and STRING in (pair.kind, pair.item_kind):
            item = chance.randrange(len(pair.items))
            pair.items[item] = u64(_number(chance, len(pair.items[item]))) + pair.items[item][8:]


def _a_count_lies(header: Header, chance: random.Random) -> None:
    if chance.random() < 0.5:
        header.n_pairs = _number(chance, len(header.pairs))
    else:
        header.n_tensors = _number(chance, len(header.tensors))


def _arrays_of_arrays(header: Header, chance: random.Random) -> None:
    depth = chance.choice((1, 2, 100))
    value = b"".join(u32(ARRAY) + u64(1) for _ in range(depth)) + u32(4) + u64(1) + u32(7)
    header.pairs.insert(0, Pair(_any_key(header, chance), ARRAY, [value]))


def _the_version_is_another(header: Header, chance: random.Random) -> None:
    header.version = chance.choice((0, 1, 2, 3, 4, 0x03000000, _number(chance)))


def _the_alignment_is_another(header: Header, chance: random.Random) -> None:
    header.pairs = [pair for pair in header.pairs if pair.key != b"general.alignment"]
    value = chance.choice((0, 1, 2, 3, 8, 31, 64, 4096, 1 << 20, 1 << 30, 1 << 31, _number(chance)))
    kind = chance.choice((4, 4, 4, 4, 10, 5, ARRAY))
    header.pairs.append(
        Pair(b"general.alignment", kind, [u64(value)[: SCALAR_BYTES.get(kind, 4)]], 4 if kind == ARRAY else None)
    )


def _a_tensor_comes(header: Header, chance: random.Random) -> None:
    if header.tensors:
        like = chance.choice(header.tensors)
        name = chance.choice((like.name, like.name + b"\x00x", b"", b"blk.99999999.x", b"n" * 63, b"n" * 64, b"\xff"))
        new = Tensor(name, list(like.dims), like.kind, like.offset)
        header.tensors.insert(chance.randint(0, len(header.tensors)), new)


def _a_tensor_goes(header: Header, chance: random.Random) -> None:
    at = _pick(header.tensors, chance)
    if at is not None:
        del header.tensors[at]


def _a_shape_is_another(header: Header, chance: random.Random) -> None:
    at = _pick(header.tensors, chance)
    if at is not None:
        tensor = header.tensors[at]
        if tensor.dims and chance.random() < 0.7:
            tensor.dims[chance.randrange(len(tensor.dims))] = _number(chance, 32)
        else:
            tensor.dims = [_number(chance) for _ in range(chance.randint(0, 5))]
        if chance.random() < 0.2:
            tensor.n_dims = _number(chance, len(tensor.dims))


def _a_tensor_is_of_another_type(header: Header, chance: random.Random) -> None:
    at = _pick(header.tensors, chance)
    if at is not None:
        header.tensors[at].kind = chance.choice((*range(-1, 45), _number(chance)))


def _a_tensor_is_called_otherwise(header: Header, chance: random.Random) -> None:
    at = _pick(header.tensors, chance)
    if at is not None:
        tensor = header.tensors[at]
        tensor.name = chance.choice((chance.choice(header.tensors).name, *_TEXTS, b"blk.0.attn_q.weight", b"blk.-1.x"))
        if chance.random() < 0.3:
            tensor.name_length = _number(chance, len(tensor.name))


def _a_tensor_lies_elsewhere(header: Header, chance: random.Random) -> None:
    at = _pick(header.tensors, chance)
    if at is not None:
        header.tensors[at].offset = _number(chance, header.tensors[at].offset)


def _two_tensors_change_places(header: Header, chance: random.Random) -> None:
    if len(header.tensors) > 1:
        one, other = chance.sample(range(len(header.tensors)), 2)
        header.tensors[one], header.tensors[other] = header.tensors[other], header.tensors[one]


def _it_ends_earlier(header: Header, chance: random.Random) -> None:
    data = header.to_bytes()
    cut = parse(data[: chance.randint(0, len(data))])
    header.pairs, header.tensors, header.rest = cut.pairs, cut.tensors, cut.rest
    header.n_pairs, header.n_tensors = cut.n_pairs, cut.n_tensors


def _a_byte_is_another(header: Header, chance: random.Random) -> None:
    data = bytearray(header.to_bytes())
    for _ in range(chance.choice((1, 1, 2, 8))):
        data[chance.randrange(len(data))] = chance.getrandbits(8)
    changed = parse(bytes(data))
    header.pairs, header.tensors, header.rest = changed.pairs, changed.tensors, changed.rest
    header.version, header.n_pairs, header.n_tensors = changed.version, changed.n_pairs, changed.n_tensors


def _what_follows_is_longer_or_shorter(header: Header, chance: random.Random) -> None:
    header.rest = chance.choice((b"", bytes(chance.choice((1, 31, 32, 33, 4096))), header.rest * 2))[: 1 << 16]


# Of a header that stays one.
_MEANINGS: tuple[Mutation, ...] = (
    *(_a_value_is_another, _a_value_is_another, _a_value_is_another, _a_value_is_of_another_kind, _a_pair_comes),
    *(_a_pair_comes, _a_pair_goes, _a_key_is_another, _an_array_is_longer_or_shorter, _the_alignment_is_another),
    *(_a_tensor_comes, _a_tensor_goes, _a_shape_is_another, _a_tensor_is_of_another_type),
    *(_a_tensor_is_called_otherwise, _two_tensors_change_places),
)
_LIES: tuple[Mutation, ...] = (
    *(_a_type_is_another, _a_length_lies, _a_count_lies, _arrays_of_arrays, _the_version_is_another),
    *(_a_tensor_lies_elsewhere, _it_ends_earlier, _a_byte_is_another, _what_follows_is_longer_or_shorter),
)
