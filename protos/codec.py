# SPDX-License-Identifier: MIT
"""The activation codec: crossing tensors to and from frame_pb2.Tensor, with every bound checked.

The worker calls it for each frame, off the event loop. What comes from the network is untrusted: a tensor is
either exactly what it says it is, or a CodecError that names it. Data is little-endian, as on every machine
llama.cpp runs.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from protos.caravan.v1 import frame_pb2

# ggml's GGML_MAX_DIMS.
MAX_DIMS = 4
# ggml's names hold 64 bytes (GGML_MAX_NAME); a key adds an offset and a size to one.
MAX_KEY_BYTES = 256

# ggml's type name -> its number in the contract, bytes per element.
_DTYPES: dict[str, tuple[frame_pb2.DType, int]] = {
    "f32": (frame_pb2.DTYPE_F32, 4),
    "f16": (frame_pb2.DTYPE_F16, 2),
    "bf16": (frame_pb2.DTYPE_BF16, 2),
    "i32": (frame_pb2.DTYPE_I32, 4),
    "i64": (frame_pb2.DTYPE_I64, 8),
}
_NAMES: dict[int, str] = {number: name for name, (number, _) in _DTYPES.items()}


class CodecError(ValueError):
    """A tensor that contradicts itself or exceeds a limit; the message names it."""


@dataclass(frozen=True, slots=True)
class DecodedTensor:
    """A tensor whose dtype, shape and data agree; `shape` is ggml's ne[], its first dimension contiguous."""

    key: str
    dtype_name: str
    shape: tuple[int, ...]
    data: bytes


def encode_tensor(key: str, dtype_name: str, shape: tuple[int, ...], data: bytes | memoryview) -> frame_pb2.Tensor:
    """One crossing tensor as it travels.

    Args:
        key: what both neighbours call it; 1 to 256 bytes of UTF-8.
        dtype_name: "f32", "f16", "bf16", "i32" or "i64".
        shape: ggml's ne[], one to four dimensions, each >= 1.
        data: the elements, contiguous, little-endian; copied.

    Raises:
        CodecError: the arguments contradict each other.
    """
    raw = data if isinstance(data, bytes) else data.tobytes()
    _check(key, dtype_name, shape, len(raw))
    return frame_pb2.Tensor(
        key=key, dtype=_DTYPES[dtype_name][0], shape=shape, encoding=frame_pb2.ENCODING_RAW, data=raw
    )


def decode_tensor(tensor: frame_pb2.Tensor, *, limit_bytes: int | None = None) -> DecodedTensor:
    """What `encode_tensor` was given.

    Args:
        tensor: as received; nothing in it is trusted.
        limit_bytes: the most bytes its data may have; None: no limit beside the message's own.

    Raises:
        CodecError: unknown dtype or encoding, a shape or size that does not fit the data, or too many bytes.
    """
    dtype_name = _NAMES.get(tensor.dtype)
    if dtype_name is None:
        raise CodecError(f"tensor {_shown(tensor.key)} has unknown dtype {int(tensor.dtype)}")
    if tensor.encoding != frame_pb2.ENCODING_RAW:
        raise CodecError(f"tensor {_shown(tensor.key)} has unknown encoding {int(tensor.encoding)}")
    if len(tensor.shape) > MAX_DIMS:
        raise CodecError(
            f"tensor {_shown(tensor.key)} has {len(tensor.shape)} dimensions, at most {MAX_DIMS} are allowed"
        )
    shape = tuple(tensor.shape)
    data = tensor.data
    if limit_bytes is not None and len(data) > limit_bytes:
        raise CodecError(f"tensor {_shown(tensor.key)} has {len(data)} bytes, more than the {limit_bytes} left")
    _check(tensor.key, dtype_name, shape, len(data))
    return DecodedTensor(tensor.key, dtype_name, shape, data)


def decode_tensors(tensors: Iterable[frame_pb2.Tensor], *, limit_bytes: int) -> list[DecodedTensor]:
    """All tensors of a frame, in order; their data together may have `limit_bytes`.

    Raises:
        CodecError: as decode_tensor.
    """
    decoded: list[DecodedTensor] = []
    left_bytes = limit_bytes
    for tensor in tensors:
        decoded.append(decode_tensor(tensor, limit_bytes=left_bytes))
        left_bytes -= len(decoded[-1].data)
    return decoded


def _check(key: str, dtype_name: str, shape: tuple[int, ...], n_bytes: int) -> None:
    """Raises CodecError unless such a tensor has exactly `n_bytes` bytes. Python integers do not overflow."""
    if not 1 <= len(key.encode(errors="surrogatepass")) <= MAX_KEY_BYTES:
        raise CodecError(f"a tensor's key has 1 to {MAX_KEY_BYTES} bytes, not {_shown(key)}")
    if dtype_name not in _DTYPES:
        raise CodecError(f"tensor {_shown(key)} has dtype {dtype_name}, which cannot cross")
    if not 1 <= len(shape) <= MAX_DIMS or any(extent < 1 for extent in shape):
        raise CodecError(f"tensor {_shown(key)} has shape {list(shape)}, not 1 to {MAX_DIMS} dimensions of 1 or more")
    expected_bytes = _DTYPES[dtype_name][1]
    for extent in shape:
        expected_bytes *= extent
    if expected_bytes != n_bytes:
        raise CodecError(
            f"tensor {_shown(key)} of {dtype_name} {list(shape)} needs {expected_bytes} bytes, not {n_bytes}"
        )


def _shown(key: str) -> str:
    return repr(key if len(key) <= 80 else key[:77] + "...")
