# SPDX-License-Identifier: MIT
"""What fuzzing starts from: headers of good models of several kinds, and those that were made to be bad."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fuzzing.header import ARRAY, SCALAR_BYTES, STRING, Header, Pair, Tensor, parse, text, u32, u64
from fuzzing.mutation import NUMBERS, settle
from native import read_layout
from protos import weights
from protos.caravan.v1 import weights_pb2
from tests.model_kinds import KINDS
from tests.models import write_model

# What was found before, with its test.
_FOUND = Path("tests/native/hostile_headers")
_F32 = 0
_INT32, _FLOAT32 = 5, 6
_TOKENS = (b"<unk>", b"<s>", b"</s>", b"<0x0A>", b"\n", b"a", b"b", b"ab", b"\xe2\x96\x81", b"\xc4\x8a", b"<|end|>")


def good_headers() -> Iterator[bytes]:
    """Headers of tests' models, and of models with every kind of vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            yield _cut(write_model(Path(folder) / f"{kind}.gguf", kind))
        yield _cut(write_model(Path(folder) / "text.gguf", "llama", n_layer=1, with_text=True))
    for model in (b"llama", b"gpt2", b"gemma4", b"bert", b"t5", b"rwkv", b"plamo2", b"no_vocab"):
        yield vocabulary_header(model).to_bytes()


def vocabulary_header(model: bytes) -> Header:
    """A header with a vocabulary of that kind and few tokens."""
    header = small_header()
    merges = [text(b"a b")]
    charsmap = [*u32(4), *u32(0), 0, 0]
    header.pairs += [
        Pair(b"tokenizer.ggml.model", STRING, [text(model)]),
        Pair(b"tokenizer.ggml.tokens", ARRAY, [text(token) for token in _TOKENS], STRING),
        Pair(b"tokenizer.ggml.scores", ARRAY, [bytes(4) for _ in _TOKENS], _FLOAT32),
        Pair(b"tokenizer.ggml.token_type", ARRAY, [u32(1) for _ in _TOKENS], _INT32),
        Pair(b"tokenizer.ggml.merges", ARRAY, merges, STRING),
        Pair(b"tokenizer.ggml.precompiled_charsmap", ARRAY, [bytes([byte]) for byte in charsmap], 0),
        Pair(b"tokenizer.ggml.bos_token_id", 4, [u32(1)]),
        Pair(b"tokenizer.ggml.eos_token_id", 4, [u32(2)]),
        Pair(b"llama.vocab_size", 4, [u32(len(_TOKENS))]),
    ]
    settle(header)
    return header


def small_header() -> Header:
    """The least that is a language model."""
    header = Header(
        pairs=[
            Pair(b"general.architecture", STRING, [text(b"llama")]),
            Pair(b"llama.block_count", 4, [u32(2)]),
            Pair(b"llama.embedding_length", 4, [u32(32)]),
        ],
        tensors=[Tensor(b"token_embd.weight", [32, 8], _F32, 0), Tensor(b"blk.0.attn_q.weight", [32, 32], _F32, 1024)],
    )
    settle(header)
    return header


def hostile_headers() -> Iterator[bytes]:
    """One lie each."""
    for number in NUMBERS:
        yield from _with_number(number)
    for kind in (*range(14), 99, 1 << 31):
        header = small_header()
        header.pairs[1] = Pair(b"llama.block_count", kind, [bytes(SCALAR_BYTES.get(kind, 8))])
        yield header.to_bytes()
    for depth in (1, 2, 1000):
        header = small_header()
        nested = b"".join(u32(ARRAY) + u64(1) for _ in range(depth)) + u32(4) + u64(1) + u32(7)
        header.pairs.insert(0, Pair(b"nested", ARRAY, [nested]))
        yield header.to_bytes()
    header = small_header()
    header.tensors[1].name = header.tensors[0].name
    yield header.to_bytes()
    header.tensors[1].name += b"\x00b"
    yield header.to_bytes()
    for kind in (-1, 4, 5, 39, 42, 43, 1 << 31):
        header = small_header()
        header.tensors[1].kind = kind
        yield header.to_bytes()


def _with_number(number: int) -> Iterator[bytes]:
    header = small_header()
    header.n_pairs = number
    yield header.to_bytes()
    header = small_header()
    header.n_tensors = number
    yield header.to_bytes()
    header = small_header()
    header.pairs[0].key_length = number
    yield header.to_bytes()
    header = small_header()
    header.pairs[0].items = [text(b"llama", number)]
    yield header.to_bytes()
    header = small_header()
    header.pairs.append(Pair(b"tokenizer.ggml.tokens", ARRAY, [text(b"a")], STRING, count=number))
    yield header.to_bytes()
    for key, kind in ((b"general.alignment", 4), (b"split.count", 10), (b"llama.block_count", 11)):
        header = small_header()
        header.pairs = [pair for pair in header.pairs if pair.key != key]
        header.pairs.append(Pair(key, kind, [u64(number)[: SCALAR_BYTES[kind]]]))
        settle(header)
        yield header.to_bytes()
    header = small_header()
    header.tensors[0].n_dims = number
    yield header.to_bytes()
    header = small_header()
    header.tensors[0].dims[0] = number
    yield header.to_bytes()
    header = small_header()
    header.tensors[1].offset = number
    yield header.to_bytes()


def _cut(path: Path) -> bytes:
    (n_bytes,) = read_layout(path).header_bytes
    data = path.read_bytes()[:n_bytes]
    assert parse(data).to_bytes() == data, "a good header can be taken apart and put together"
    return data


def seeds(target: str) -> Iterator[tuple[str, bytes]]:
    """Inputs of a target, with names that say what they are."""
    headers = [(f"good-{at}", data) for at, data in enumerate(good_headers())]
    headers += [(f"hostile-{at}", data) for at, data in enumerate(hostile_headers())]
    headers += [(path.stem, path.read_bytes()) for path in sorted(_FOUND.iterdir())]
    if target == "layout":
        yield from headers
    elif target == "offer":
        for name, data in headers:
            yield name, struct.pack("<QQQBB", len(data) + (1 << 30), 0, 4096, 0, 0) + data
    elif target == "split":
        for at, (first, second) in enumerate(_split_headers()):
            yield f"good-{at}", u32(len(first)) + first + second
    else:
        yield from _messages()


def _split_headers() -> Iterator[tuple[bytes, bytes]]:
    for count, second_number, kind in (
        (2, 1, 2),
        (2, 0, 2),
        (2, 1, 4),
        (3, 1, 2),
        (1 << 16, 1, 4),
        ((1 << 64) - 2, 1, 10),
    ):
        parts = []
        for number in (0, second_number):
            header = small_header()
            n_bytes = SCALAR_BYTES[kind]
            split = {b"split.no": number, b"split.count": count, b"split.tensors.count": 4}
            header.pairs += [Pair(key, kind, [u64(value)[:n_bytes]]) for key, value in split.items()]
            if number:
                for tensor in header.tensors:
                    tensor.name += b"2"
            settle(header)
            parts.append(header.to_bytes())
        yield parts[0], parts[1]


def _messages() -> Iterator[tuple[str, bytes]]:
    hello = weights_pb2.WeightsHello(role=weights_pb2.WEIGHTS_ROLE_ASKER, identity="0" * 64, session_id="s", epoch=1)
    ask = weights_pb2.WeightsAsk(tensor=3, piece=weights_pb2.Piece(offset=1 << 40, n_bytes=16 << 20))
    answer = weights_pb2.WeightsPiece(tensor=3, hash=bytes(32))
    framed = [u32(len(data)) + data for data in (m.SerializeToString() for m in (hello, ask, answer))]
    yield "greeting", weights.MAGIC + framed[0]
    yield "asks", weights.MAGIC + framed[0] + framed[1] * 3
    yield "answers", weights.MAGIC + b"".join(framed)
    for number in (0, weights.MESSAGE_LIMIT_BYTES, weights.MESSAGE_LIMIT_BYTES + 1, 1 << 31, (1 << 32) - 1):
        yield f"length-{number}", weights.MAGIC + u32(number) + framed[0]
