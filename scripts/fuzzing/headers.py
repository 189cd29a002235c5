# SPDX-License-Identifier: MIT
"""Changes a GGUF header as somebody would who knows its format: a field, or an entry, and the rest as it was. Pure.

What only flips bytes dies at the magic or at the first length; this gets behind every check that comes before.
Source: docs/gguf.md of ggml.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

_U32, _U64, _HEAD = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<4sIQQ")
_STRING, _ARRAY = 8, 9
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
# Of an entry without its name: length, type, and a value of one byte.
_LEAST_BYTES = 13
# More than any input holds.
_MANY = 1 << 16

# Counts, lengths and values where readers go wrong.
_NUMBERS = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 31, 32, 33, 63, 64, 255, 256, 511, 512, 513, 1024, 1025, 65535, 65536),
    *((1 << n) + d for n in (24, 28, 30, 31, 32, 40, 48, 60, 61, 62, 63, 64) for d in (-1, 0, 1)),
    *(-2, -32, (1 << 64) // 18, (1 << 63) // 9 // 32 * 32 + 32),
)
_TEXTS = (
    *(b"", b"llama", b"qwen3moe", b"gemma3n", b"mamba", b"rwkv7", b"deepseek2", b"bert", b"clip", b"t5", b"no_vocab"),
    *(b"gpt2", b"rwkv", b"plamo2", b"gemma4", b"yarn", b"\x00", b"a\x00b", b"\xff\xfe\x80", b"%s%n", b"x" * 5000),
)
# Keys that models of tests have not; behind an architecture's name where they begin with a dot.
_KEYS = (
    *(b"general.alignment", b"split.no", b"split.count", b".num_loops", b".nextn_predict_layers", b".vocab_size"),
    *(b".expert_group_count", b".expert_group_used_count", b".attention.sliding_window", b".attention.key_length"),
    *(b".rope.dimension_count", b".attention.shared_kv_layers", b".rope.scaling.type", b".embedding_length_out"),
)
_SETTLED = 0.7
_DEFAULT_ALIGNMENT = 32


@dataclass(slots=True)
class Header:
    """Its entries as they are, and what is behind them. `surplus`: how many more tensors and pairs it claims."""

    version: int
    surplus: tuple[int, int]
    pairs: list[bytes]
    tensors: list[bytes]
    rest: bytes

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """What can be understood; the rest is the rest."""
        pairs: list[bytes] = []
        tensors: list[bytes] = []
        if len(data) < _HEAD.size or data[:4] != b"GGUF":
            return cls(3, (0, 0), pairs, tensors, data)
        _, version, n_tensors, n_pairs = _HEAD.unpack_from(data)
        at = _HEAD.size
        for entries, count, size in ((pairs, n_pairs, _pair_bytes), (tensors, n_tensors, _tensor_bytes)):
            while len(entries) < min(count, _MANY) and (end := _end(size, data, at)) is not None:
                entries.append(data[at:end])
                at = end
            if len(entries) < count:
                break
        return cls(version, (n_tensors - len(tensors), n_pairs - len(pairs)), pairs, tensors, data[at:])

    def to_bytes(self) -> bytes:
        counts = [len(self.tensors) + self.surplus[0], len(self.pairs) + self.surplus[1]]
        head = _HEAD.pack(b"GGUF", self.version, *(count % (1 << 64) for count in counts))
        return b"".join((head, *self.pairs, *self.tensors, self.rest))

    def settle(self) -> None:
        """Puts tensors one behind the other and the data where the alignment wants it: else one new key ends it all."""
        alignment, offset = _DEFAULT_ALIGNMENT, 0
        for pair in self.pairs:
            if pair[8:-8] == b"general.alignment":
                alignment = _U32.unpack(pair[-4:])[0] or 1
        for at, row in enumerate(self.tensors):
            self.tensors[at] = row[:-8] + _U64.pack(offset % (1 << 64))
            offset += -(-_data_bytes(row) // alignment) * alignment
        self.rest = b""
        self.rest = bytes(min(-len(self.to_bytes()) % alignment, _MANY))


class Mutator:
    """Changes headers, with entries of good ones at hand."""

    def __init__(self, good: Sequence[bytes]) -> None:
        self._good = good
        parsed = [Header.parse(data) for data in good]
        self._pairs = [pair for header in parsed for pair in header.pairs]
        self._tensors = [row for header in parsed for row in header.tensors]

    def change(self, data: bytes, chance: random.Random, *, stays_good: bool) -> bytes:
        """A header that differs in one thing or a few. `stays_good`: its counts and lengths do not lie, and half of the
        time it is a good one that differs."""
        is_anew = stays_good and chance.random() < 0.5
        header = Header.parse(chance.choice(self._good) if is_anew else data)
        for _ in range(chance.choice((1, 1, 1, 2, 3, 5))):
            if not stays_good and chance.random() < 0.3:
                _lie(header, chance)
            else:
                entries, pool = chance.choice(
                    [(header.pairs, self._pairs)] * 3 + [(header.tensors, self._tensors)]  # most is said in pairs
                )
                self._change_entries(header, entries, pool, chance, stays_good=stays_good)
        if stays_good or chance.random() < _SETTLED:
            header.settle()
        return header.to_bytes()

    def _change_entries(
        self, header: Header, entries: list[bytes], pool: Sequence[bytes], chance: random.Random, *, stays_good: bool
    ) -> None:
        what, at = chance.randrange(10), chance.randrange(len(entries) + 1)
        is_pair = entries is header.pairs
        if what == 0 or at == len(entries):
            new = self._own(header, chance.choice(pool), chance) if is_pair else chance.choice(pool)
            # A second one of that name is refused before all else, so mostly it is another's place that it takes.
            same = [number for number, entry in enumerate(entries) if _name(entry) == _name(new)]
            if same and (stays_good or chance.random() < 0.9):
                entries[same[0]] = new
            else:
                entries.insert(at, new)
        elif what == 1:
            del entries[at]
        elif what == 2:
            other = chance.randrange(len(entries))
            entries[at], entries[other] = entries[other], entries[at]
        elif what == 3:
            name = chance.choice((_name(chance.choice(pool)), chance.choice(_TEXTS)))
            entries[at] = _text(name) + entries[at][8 + len(_name(entries[at])) :]
        elif what == 4 and is_pair:
            entries[at] = _resized(entries[at], chance)
        else:
            entries[at] = _renumbered(entries[at], is_pair, chance, stays_good=stays_good)

    def _own(self, header: Header, pair: bytes, chance: random.Random) -> bytes:
        """A pair of another header as one of this, or a new one."""
        architecture = next((p[32:] for p in header.pairs if _name(p) == b"general.architecture"), b"llama")
        if chance.random() < 0.3:
            key, kind = chance.choice(_KEYS), chance.choice((4, 4, 4, 2, 10, 11, 5, 6, _STRING))
            value = _U64.pack(_number(chance))[: _SCALAR_BYTES.get(kind, 8)]
            value = _text(chance.choice(_TEXTS)) if kind == _STRING else value
            return _text(architecture + key if key.startswith(b".") else key) + _U32.pack(kind) + value
        name = _name(pair)
        before, dot, key = name.partition(b".")
        if before in (b"general", b"tokenizer", b"split"):
            return pair
        return _text(architecture + dot + key) + pair[8 + len(name) :]


def _lie(header: Header, chance: random.Random) -> None:
    what = chance.randrange(5)
    if what == 0:
        surplus = [_number(chance), 0]
        chance.shuffle(surplus)
        header.surplus = (surplus[0], surplus[1])
    elif what == 1:
        header.version = chance.choice((0, 1, 2, 3, 4, 0x03000000, 0xFFFFFFFF))
    elif what == 2:
        header.rest = chance.choice((b"", bytes(chance.choice((1, 31, 32, 33, 4096))), (header.rest * 2)[:_MANY]))
    else:
        data = bytearray(header.to_bytes())
        if what == 3:
            del data[chance.randint(0, len(data)) :]
        else:
            data[chance.randrange(len(data))] = chance.getrandbits(8)
        new = Header.parse(bytes(data))
        header.pairs[:], header.tensors[:], header.rest, header.surplus = new.pairs, new.tensors, new.rest, new.surplus


def _number(chance: random.Random, near: int = 0) -> int:
    number = chance.choice((chance.choice(_NUMBERS), near + chance.randint(-2, 2), chance.getrandbits(32)))
    return number % (1 << 64)


def _renumbered(entry: bytes, is_pair: bool, chance: random.Random, *, stays_good: bool) -> bytes:
    """With another number in one of its fields, or another text as its value."""
    at = 8 + len(_name(entry))
    if is_pair and entry[at] == _STRING and (stays_good or chance.random() < 0.5):
        return entry[: at + 4] + _text(chance.choice(_TEXTS))
    fields = list(_pair_values(entry, at) if is_pair else _row_fields(entry, at))
    if not stays_good:
        fields += [(0, 8), (at, 4), *([(at + 4, 4), (at + 8, 8)] if is_pair else [])]
    fields = [(start, n_bytes) for start, n_bytes in fields if start + n_bytes <= len(entry)]
    if not fields:
        return entry
    start, n_bytes = chance.choice(fields)
    old = int.from_bytes(entry[start : start + n_bytes], "little")
    return entry[:start] + _U64.pack(_number(chance, old))[:n_bytes] + entry[start + n_bytes :]


def _pair_values(entry: bytes, at: int) -> Sequence[tuple[int, int]]:
    """Where its numbers are: of an array the first and the last."""
    kind, start = entry[at], at + 4
    if kind == _ARRAY:
        kind, start = entry[start], start + 12
    n_bytes = _SCALAR_BYTES.get(kind)
    return [] if n_bytes is None else [(start, n_bytes), (len(entry) - n_bytes, n_bytes)]


def _row_fields(entry: bytes, at: int) -> Sequence[tuple[int, int]]:
    """The sizes, the type and the offset."""
    return [*((dim, 8) for dim in range(at + 4, len(entry) - 12, 8)), (len(entry) - 12, 4), (len(entry) - 8, 8)]


def _resized(pair: bytes, chance: random.Random) -> bytes:
    """An array of numbers, shorter or longer; what is none stays."""
    at = 8 + len(_name(pair))
    n_bytes = _SCALAR_BYTES.get(pair[at + 4]) if pair[at] == _ARRAY else None
    if n_bytes is None:
        return pair
    values = (pair[at + 16 :] * 3)[: n_bytes * chance.choice((0, 1, 2, 3, 4, 16, 300))]
    return pair[: at + 8] + _U64.pack(len(values) // n_bytes) + values


def _name(entry: bytes) -> bytes:
    """Of a pair or a row; nothing where its length lies."""
    (n_bytes,) = _U64.unpack_from(entry)
    return entry[8 : 8 + n_bytes] if n_bytes <= len(entry) - _LEAST_BYTES else b""


def _text(value: bytes) -> bytes:
    return _U64.pack(len(value)) + value


def _end(of: Callable[[bytes, int], int], data: bytes, at: int) -> int | None:
    """Where the entry ends that begins there; None where it does not end, or is none."""
    try:
        end = of(data, at)
    except (struct.error, KeyError, OverflowError):
        return None
    return end if end <= len(data) else None


def _pair_bytes(data: bytes, at: int) -> int:
    """Where the pair ends that begins there. Raises as `_end` knows."""
    at += 8 + _U64.unpack_from(data, at)[0]
    kind, count = _U32.unpack_from(data, at)[0], 1
    at += 4
    if kind == _ARRAY:
        kind, count = struct.unpack_from("<IQ", data, at)
        at += 12
    if kind != _STRING:
        at += min(count, 1 << 40) * _SCALAR_BYTES[kind]
    else:
        for _ in range(count):
            at += 8 + _U64.unpack_from(data, at)[0]
    return at


def _tensor_bytes(data: bytes, at: int) -> int:
    """Where the row ends that begins there. Raises as `_end` knows."""
    at += 8 + _U64.unpack_from(data, at)[0]
    at += 4 + 8 * _U32.unpack_from(data, at)[0] + 12
    return at


def _data_bytes(row: bytes) -> int:
    """Of the tensor itself."""
    at = 12 + len(_name(row))
    dims = [_U64.unpack_from(row, dim)[0] for dim in range(at, len(row) - 12, 8)]
    try:
        n_block, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(_U32.unpack_from(row, len(row) - 12)[0])]
    except ValueError:
        return 0
    return int(math.prod(dims) // n_block * n_bytes)
