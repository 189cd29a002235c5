# SPDX-License-Identifier: MIT
"""A GGUF header whose counts and lengths may lie: what a mutation changes, and how that becomes bytes again.

Source: docs/gguf.md of ggml. Lenient where a reader is strict: what cannot be understood stays as it is, as `rest`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
# Bytes of each value type that has a fixed size.
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
# More than any input of ours holds.
_MANY = 1 << 16


def u32(value: int) -> bytes:
    """As a file has it; cut to 32 bits."""
    return _U32.pack(value & 0xFFFFFFFF)


def u64(value: int) -> bytes:
    """As a file has it; cut to 64 bits."""
    return _U64.pack(value & 0xFFFFFFFFFFFFFFFF)


def text(value: bytes, length: int | None = None) -> bytes:
    """A string with its length, or with another one."""
    return u64(len(value) if length is None else length) + value


@dataclass(slots=True)
class Pair:
    """A key with its value: `items` of `item_kind` for an array, else the one value as its bytes. `key_length` and
    `count` are what is said instead of the truth."""

    key: bytes
    kind: int
    items: list[bytes]
    item_kind: int | None = None
    key_length: int | None = None
    count: int | None = None

    def to_bytes(self) -> bytes:
        head = text(self.key, self.key_length) + u32(self.kind)
        if self.item_kind is not None:
            head += u32(self.item_kind) + u64(len(self.items) if self.count is None else self.count)
        return head + b"".join(self.items)


@dataclass(slots=True)
class Tensor:
    """A row of the tensor table. `name_length` and `n_dims` are what is said instead of the truth."""

    name: bytes
    dims: list[int]
    kind: int
    offset: int
    name_length: int | None = None
    n_dims: int | None = None

    def to_bytes(self) -> bytes:
        n_dims = len(self.dims) if self.n_dims is None else self.n_dims
        shape = b"".join(map(u64, self.dims))
        return text(self.name, self.name_length) + u32(n_dims) + shape + u32(self.kind) + u64(self.offset)


@dataclass(slots=True)
class Header:
    """All of it; `n_tensors` and `n_pairs` are what is said instead of the truth."""

    pairs: list[Pair] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    rest: bytes = b""
    version: int = 3
    n_tensors: int | None = None
    n_pairs: int | None = None

    def to_bytes(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_pairs = len(self.pairs) if self.n_pairs is None else self.n_pairs
        entries = [pair.to_bytes() for pair in self.pairs] + [tensor.to_bytes() for tensor in self.tensors]
        return MAGIC + u32(self.version) + u64(n_tensors) + u64(n_pairs) + b"".join(entries) + self.rest


class _EndError(Exception):
    """Nothing more can be understood."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, n_bytes: int) -> bytes:
        if not 0 <= n_bytes <= len(self.data) - self.at:
            raise _EndError
        self.at += n_bytes
        return self.data[self.at - n_bytes : self.at]

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def value(self, kind: int) -> bytes:
        if kind == STRING:
            start = self.at
            self.take(self.u64())
            return self.data[start : self.at]
        if kind not in SCALAR_BYTES:
            raise _EndError
        return self.take(SCALAR_BYTES[kind])

    def pair(self) -> Pair:
        key, kind = self.take(self.u64()), self.u32()
        if kind != ARRAY:
            return Pair(key, kind, [self.value(kind)])
        item_kind, count = self.u32(), self.u64()
        if count > _MANY:
            raise _EndError
        return Pair(key, kind, [self.value(item_kind) for _ in range(count)], item_kind)

    def tensor(self) -> Tensor:
        name, n_dims = self.take(self.u64()), self.u32()
        if n_dims > _MANY:
            raise _EndError
        return Tensor(name, [self.u64() for _ in range(n_dims)], self.u32(), self.u64())


def parse(data: bytes) -> Header:
    """What can be understood of a header; from the first thing that cannot, all is `rest`."""
    reader, header = _Reader(data), Header()
    try:
        if reader.take(4) != MAGIC:
            raise _EndError
        header.version, n_tensors, n_pairs = reader.u32(), reader.u64(), reader.u64()
    except _EndError:
        return Header(rest=data)
    good = reader.at
    try:
        while len(header.pairs) < n_pairs:
            header.pairs.append(reader.pair())
            good = reader.at
        while len(header.tensors) < n_tensors:
            header.tensors.append(reader.tensor())
            good = reader.at
    except _EndError:
        pass
    header.n_pairs = None if len(header.pairs) == n_pairs else n_pairs
    header.n_tensors = None if len(header.tensors) == n_tensors else n_tensors
    header.rest = data[good:]
    return header
