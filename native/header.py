# SPDX-License-Identifier: MIT
"""One GGUF header, read by ggml's own reader: its keys, and its table of tensors. What is too much for that is refused
before (native/header_limits.py), and sizes that it would count wrongly behind it. Knows nothing of models.
"""

from __future__ import annotations

import ctypes as c
import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from native.errors import ModelFileError, ModelFileNotFoundError
from native.header_limits import MAX_HEADER_BYTES, check_header
from native.library import declare, forget_errors, ggml_base, last_errors

# llama.cpp counts everything in 32 bits.
_NO_SIZE = 1 << 32

_CHUNK_BYTES = 1 << 20

# GGUF value types. Source: enum gguf_type in ggml/include/gguf.h.
_INTEGER_READERS: dict[int, tuple[str, type[c._SimpleCData[int]]]] = {
    0: ("gguf_get_val_u8", c.c_uint8),
    1: ("gguf_get_val_i8", c.c_int8),
    2: ("gguf_get_val_u16", c.c_uint16),
    3: ("gguf_get_val_i16", c.c_int16),
    4: ("gguf_get_val_u32", c.c_uint32),
    5: ("gguf_get_val_i32", c.c_int32),
    10: ("gguf_get_val_u64", c.c_uint64),
    11: ("gguf_get_val_i64", c.c_int64),
}
_UINT16_TYPE = 2
_BOOL_TYPE = 7
_INT32_TYPES = (4, 5)
_STRING_TYPE = 8
_ARRAY_TYPE = 9


@dataclass(frozen=True, slots=True)
class TensorRow:
    """A tensor as the table has it; `offset_bytes` from the file's beginning."""

    name: str
    type_name: str
    offset_bytes: int
    n_bytes: int
    n_elements: int


class _InitParams(c.Structure):
    _fields_ = (("no_alloc", c.c_bool), ("ctx", c.c_void_p))


_init = declare(ggml_base, "gguf_init_from_file", c.c_void_p, c.c_char_p, _InitParams)
_free = declare(ggml_base, "gguf_free", None, c.c_void_p)
_data_offset = declare(ggml_base, "gguf_get_data_offset", c.c_size_t, c.c_void_p)
_find_key = declare(ggml_base, "gguf_find_key", c.c_int64, c.c_void_p, c.c_char_p)
_kv_type = declare(ggml_base, "gguf_get_kv_type", c.c_int, c.c_void_p, c.c_int64)
_string = declare(ggml_base, "gguf_get_val_str", c.c_char_p, c.c_void_p, c.c_int64)
_boolean = declare(ggml_base, "gguf_get_val_bool", c.c_bool, c.c_void_p, c.c_int64)
_array_type = declare(ggml_base, "gguf_get_arr_type", c.c_int, c.c_void_p, c.c_int64)
_array_data = declare(ggml_base, "gguf_get_arr_data", c.c_void_p, c.c_void_p, c.c_int64)
_array_length = declare(ggml_base, "gguf_get_arr_n", c.c_size_t, c.c_void_p, c.c_int64)
_n_tensors = declare(ggml_base, "gguf_get_n_tensors", c.c_int64, c.c_void_p)
_tensor_name = declare(ggml_base, "gguf_get_tensor_name", c.c_char_p, c.c_void_p, c.c_int64)
_tensor_type = declare(ggml_base, "gguf_get_tensor_type", c.c_int, c.c_void_p, c.c_int64)
_tensor_offset = declare(ggml_base, "gguf_get_tensor_offset", c.c_size_t, c.c_void_p, c.c_int64)
_tensor_shape = declare(ggml_base, "gguf_get_tensor_ne", c.POINTER(c.c_int64), c.c_void_p, c.c_int64)
_tensor_size = declare(ggml_base, "gguf_get_tensor_size", c.c_size_t, c.c_void_p, c.c_int64)
_type_name = declare(ggml_base, "ggml_type_name", c.c_char_p, c.c_int)
_type_size = declare(ggml_base, "ggml_type_size", c.c_size_t, c.c_int)
_block_size = declare(ggml_base, "ggml_blck_size", c.c_int64, c.c_int)


class GgufHeader:
    """One open GGUF header. Not thread-safe; close it by leaving its `with`."""

    def __init__(self, path: Path) -> None:
        """Reads it.

        Raises:
            ModelFileNotFoundError, ModelFileError: with the reason.
        """
        self.path = path
        self.handle: int | None = None
        try:
            _check_file(path)
        except OSError as error:
            raise ModelFileError(path, f"cannot be read: {error.strerror}") from None
        forget_errors()
        self.handle = _init(os.fsencode(path), _InitParams(True, None))
        if self.handle is None:
            raise ModelFileError(path, f"the GGUF header is damaged or cut off ({last_errors()}); download it again")

    def __enter__(self) -> GgufHeader:
        return self

    def __exit__(self, *_: object) -> None:
        if self.handle is not None:
            _free(self.handle)
            self.handle = None

    def string(self, key: str, default: str = "") -> str:
        """A text; the default where there is none."""
        at = _find_key(self.handle, key.encode())
        if at < 0 or _kv_type(self.handle, at) != _STRING_TYPE:
            return default
        return str(_string(self.handle, at).decode("utf-8", "replace"))

    def boolean(self, key: str, default: bool) -> bool:
        """True or false; the default where there is neither."""
        at = _find_key(self.handle, key.encode())
        if at < 0 or _kv_type(self.handle, at) != _BOOL_TYPE:
            return default
        return bool(_boolean(self.handle, at))

    def integer(self, key: str, default: int = 0) -> int:
        """A whole number of any type; the default where there is none."""
        number = self.optional_integer(key)
        return default if number is None else number

    def optional_integer(self, key: str) -> int | None:
        """A whole number of any type; None where there is none."""
        at = _find_key(self.handle, key.encode())
        reader = _INTEGER_READERS.get(_kv_type(self.handle, at)) if at >= 0 else None
        if reader is None:
            return None
        name, result = reader
        return int(declare(ggml_base, name, result, c.c_void_p, c.c_int64)(self.handle, at))

    def size(self, key: str, default: int = 0) -> int:
        """A count of something, as llama.cpp can hold it. Raises ModelFileError."""
        value = self.integer(key, default)
        if not 0 <= value < _NO_SIZE:
            raise ModelFileError(self.path, f"the GGUF gives no usable {key} ({value}): it is no language model")
        return value

    def sizes(self, key: str, at_most: int) -> list[int]:
        """Such a count, or one for each layer, so many of them; none where there is neither."""
        at = _find_key(self.handle, key.encode())
        if at < 0 or _kv_type(self.handle, at) != _ARRAY_TYPE:
            return [self.size(key)] if at >= 0 else []
        if _array_type(self.handle, at) not in _INT32_TYPES:
            return []
        values = c.cast(_array_data(self.handle, at), c.POINTER(c.c_uint32))
        return values[: min(_array_length(self.handle, at), at_most)]

    def is_uint16(self, key: str) -> bool:
        """Whether there is such a number, and of that type."""
        at = _find_key(self.handle, key.encode())
        return bool(at >= 0 and _kv_type(self.handle, at) == _UINT16_TYPE)

    def array_length(self, key: str) -> int:
        """How many values a list has; 0 where there is none."""
        at = _find_key(self.handle, key.encode())
        return int(_array_length(self.handle, at)) if at >= 0 and _kv_type(self.handle, at) == _ARRAY_TYPE else 0

    @property
    def n_bytes(self) -> int:
        """Before the first tensor's."""
        return int(_data_offset(self.handle))

    def hash_header(self, digest: hashlib._Hash) -> int:
        """Adds what lies before the first tensor's bytes; how much that is. Raises ModelFileError, and OSError."""
        n_bytes = self.n_bytes
        if n_bytes > MAX_HEADER_BYTES:
            raise ModelFileError(self.path, f"the GGUF header has {n_bytes:,} bytes; no model has so large a one")
        left = n_bytes
        with self.path.open("rb") as file:
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                digest.update(chunk)
                left -= len(chunk)
        return n_bytes

    def tensors(self) -> Iterator[TensorRow]:
        """The table, in its order. Raises ModelFileError."""
        start = _data_offset(self.handle)
        for i in range(_n_tensors(self.handle)):
            name = _tensor_name(self.handle, i).decode("utf-8", "replace")
            kind, n_bytes = _tensor_type(self.handle, i), _tensor_size(self.handle, i)
            n_elements = math.prod(_tensor_shape(self.handle, i)[:4])
            if n_elements * _type_size(kind) != n_bytes * _block_size(kind):
                # ggml counts bytes in 64 bits, of which sizes of somebody's choice run over.
                raise ModelFileError(self.path, f"the GGUF header is damaged: {n_elements:,} numbers in tensor {name}")
            offset_bytes = start + _tensor_offset(self.handle, i)
            yield TensorRow(name, _type_name(kind).decode(), offset_bytes, n_bytes, n_elements)


def _check_file(path: Path) -> None:
    """Refuses what ggml need not look at, or had better not. Raises OSError and ModelFileError."""
    if not path.exists():
        raise ModelFileNotFoundError(path, "there is no such file")
    if path.is_dir():
        raise ModelFileError(path, "this is a folder; name the GGUF file in it")
    if not path.is_file():
        # Opening a pipe, say, would wait for somebody to write to it.
        raise ModelFileError(path, "this is a device or a pipe, not a file")
    magic = b""
    # What has no size may be one of the system's own, of which some wait until there is something to tell.
    if path.stat().st_size:
        with path.open("rb") as file:
            magic = file.read(4)
    if magic != b"GGUF":
        raise ModelFileError(path, "this is not a GGUF file (it does not begin with 'GGUF')")
    check_header(path)
