# SPDX-License-Identifier: MIT
"""Writes tiny GGUF models with random, seeded weights, so that tests need no download and no large file.

Their text is nonsense; that a line gives the same nonsense as llama.cpp, bit for bit, is what tests look at.
"""

from __future__ import annotations

import ctypes
import zlib
from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGUFReader, GGUFWriter
from numpy.typing import NDArray

from tests.model_kinds import ENCODERS, KINDS, REFUSED, RERANKERS, Kind, Size, Value
from tests.model_kinds.parts import N_CTX_TRAIN

# llama.cpp's file types. Source: enum llama_ftype in include/llama.h.
QUANTISATIONS = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "q4_k": 15}

# K-quants come in blocks of 256 along the contiguous dimension.
_QUANTISED_N_EMBD = 256

CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def write_model(
    path: Path,
    kind: str,
    *,
    n_layer: int | None = None,
    size: Size | None = None,
    quantisation: str = "f32",
    with_text: bool = False,
    chat_template: str = CHAT_TEMPLATE,
    seed: int = 0,
) -> Path:
    """Writes a model of that kind and returns its path; the same arguments give the same bytes.

    Args:
        path: where; its folder must exist.
        kind: a key of KINDS, ENCODERS, RERANKERS or REFUSED.
        n_layer: how many layers, the kind's own number without it.
        size: layers, width and vocabulary, if the kind's own do not do; n_layer still wins.
        quantisation: a key of QUANTISATIONS, made of the f32 weights by llama.cpp itself; the kind's own size is
            widened to what blocks of 256 need.
        with_text: give it a SentencePiece vocabulary (bytes, letters, some English syllables, and fillers up to the
            size's number of tokens), and the template; without it a model knows token ids only.
        chat_template: of a model with text.
        seed: of the weights.
    """
    described = (KINDS | ENCODERS | RERANKERS | REFUSED)[kind]
    if size is None:
        is_blocked = quantisation not in ("f32", "f16")
        size = replace(described.size, n_embd=_QUANTISED_N_EMBD) if is_blocked else described.size
    size = replace(size, n_layer=n_layer or size.n_layer)
    if with_text:
        size = replace(size, n_vocab=len(_spm_pieces(size.n_vocab)))
    template = chat_template if with_text else None
    if quantisation == "f32":
        _write(path, described, size, template, seed)
        return path
    unquantised = path.with_suffix(".f32.gguf")
    _write(unquantised, described, size, template, seed)
    _quantise(unquantised, path, QUANTISATIONS[quantisation])
    unquantised.unlink()
    return path


def split_model(path: Path, prefix: Path) -> list[Path]:
    """Writes a model's tensors by turns into three files, as llama.cpp's gguf-split names them; their paths."""
    whole = GGUFReader(path)
    parts = [prefix.with_name(f"{prefix.name}-{number:05}-of-00003.gguf") for number in (1, 2, 3)]
    for number, part in enumerate(parts):
        writer = GGUFWriter(part, "llama")
        if number > 0:
            writer.kv_data[0].clear()  # only the first file says what model it is
        else:
            for field in whole.fields.values():
                if field.name.startswith(("llama.", "tokenizer.", "general.name")):
                    writer.add_key_value(field.name, field.contents(), field.types[0])
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 3)
        writer.add_int32("split.tensors.count", len(whole.tensors))
        for tensor in whole.tensors[number::3]:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return parts


def _write(path: Path, kind: Kind, size: Size, chat_template: str | None, seed: int) -> None:
    writer = GGUFWriter(path, kind.architecture)
    common = {
        "vocab_size": size.n_vocab,
        "context_length": N_CTX_TRAIN,
        "embedding_length": size.n_embd,
        "feed_forward_length": size.n_ff,
        "block_count": size.n_layer,
    }
    writer.add_string("general.name", f"tiny {kind.architecture}")
    for key, value in (common | kind.metadata(size)).items():
        _add(writer, f"{kind.architecture}.{key}", value)
    if chat_template is not None:
        _add_spm(writer, size.n_vocab, chat_template)
        for key, value in kind.vocabulary.items():
            _add(writer, key, value)
    else:
        writer.add_string("tokenizer.ggml.model", "no_vocab")
    _add(writer, "tokenizer.ggml.token_type_count", 2)
    for name, ne in kind.tensors(size).items():
        writer.add_tensor(name, _weights(name, ne, seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: GGUFWriter, key: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _weights(name: str, ne: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Random weights that keep activations in a sane range; each tensor has its own stream of numbers."""
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = random.standard_normal(ne[::-1], dtype=np.float32)
    if name.endswith("ssm_a") or "decay.weight" in name:
        values = -np.abs(values)  # a state decays
    elif name.startswith("rope_f"):
        values = np.abs(values) + np.float32(1)
    elif "norm" in name and name.endswith(".weight"):
        values = values / np.float32(8) + np.float32(1)
    else:
        values /= np.float32(np.sqrt(ne[0]))
    return values


def _quantise(source: Path, target: Path, file_type: int) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = 1
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status != 0:
        raise RuntimeError(f"llama.cpp could not quantise {source}")


_UNKNOWN, _CONTROL, _NORMAL, _BYTE = 2, 3, 1, 6
_SYLLABLES = (
    *("an", "ar", "as", "at", "ed", "en", "er", "es", "he", "in", "is", "it", "le", "nd", "ng", "on", "or", "ou", "re"),
    *("st", "te", "th", "ti", "to", "the", "and", "ing"),
)


def _spm_pieces(n_vocab: int) -> list[tuple[str, float, int]]:
    """Text, score and type of every token. Merging prefers a higher score: longer pieces have one."""
    letters = [chr(c) for c in range(ord(" ") + 1, 127)]
    words = ["▁", *_SYLLABLES, *(f"▁{s}" for s in _SYLLABLES)]
    pieces = [
        ("<unk>", 0.0, _UNKNOWN),
        ("<s>", 0.0, _CONTROL),
        ("</s>", 0.0, _CONTROL),
        *((f"<0x{byte:02X}>", 0.0, _BYTE) for byte in range(256)),
        *((piece, float(len(piece) - 100), _NORMAL) for piece in dict.fromkeys([*letters, *words])),
    ]
    fillers = [(f"<filler {i}>", 0.0, _CONTROL) for i in range(n_vocab - len(pieces))]
    return [*pieces, *fillers]


def _add_spm(writer: GGUFWriter, n_vocab: int, chat_template: str) -> None:
    pieces = _spm_pieces(n_vocab)
    writer.add_string("tokenizer.ggml.model", "llama")
    writer.add_string("tokenizer.ggml.pre", "default")
    writer.add_array("tokenizer.ggml.tokens", [text for text, _, _ in pieces])
    writer.add_array("tokenizer.ggml.scores", [score for _, score, _ in pieces])
    writer.add_array("tokenizer.ggml.token_type", [kind for _, _, kind in pieces])
    for key, value in (("unknown", 0), ("bos", 1), ("eos", 2)):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", value)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_string("tokenizer.chat_template", chat_template)
