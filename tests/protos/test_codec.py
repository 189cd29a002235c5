# SPDX-License-Identifier: MIT
"""Tests of protos/codec.py: what goes in comes out, and nothing else gets through."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from protos.caravan.v1 import frame_pb2
from protos.codec import (
    MAX_KEY_BYTES,
    CodecError,
    DecodedTensor,
    decode_tensor,
    decode_tensors,
    encode_tensor,
)

_ITEM_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i32": 4, "i64": 8}


def _tensor(**changes: object) -> frame_pb2.Tensor:
    """A correct tensor of 2 x 3 floats, but for the changes."""
    tensor = encode_tensor("l_out-3", "f32", (2, 3), bytes(24))
    for name, value in changes.items():
        tensor.ClearField(name)
        if name == "shape":
            assert isinstance(value, list)
            tensor.shape.extend(value)
        else:
            setattr(tensor, name, value)
    return tensor


@given(
    key=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60),
    dtype_name=st.sampled_from(sorted(_ITEM_BYTES)),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    data=st.data(),
)
def test_a_tensor_survives_the_trip(key: str, dtype_name: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    n_bytes = int(np.prod(shape)) * _ITEM_BYTES[dtype_name]
    raw = data.draw(st.binary(min_size=n_bytes, max_size=n_bytes))
    sent = encode_tensor(key, dtype_name, shape, raw).SerializeToString()
    received = frame_pb2.Tensor.FromString(sent)
    assert decode_tensor(received, limit_bytes=n_bytes) == DecodedTensor(key, dtype_name, shape, raw)


def test_floats_are_little_endian_and_their_first_dimension_is_contiguous() -> None:
    states = np.arange(6, dtype="<f4").reshape(3, 2)
    decoded = decode_tensor(encode_tensor("l_out-0", "f32", (2, 3), states.data))
    assert np.array_equal(np.frombuffer(decoded.data, "<f4").reshape(decoded.shape[::-1]), states)


@pytest.mark.parametrize(
    ("tensor", "complaint"),
    [
        (_tensor(dtype=frame_pb2.DTYPE_UNSPECIFIED), "unknown dtype 0"),
        (_tensor(dtype=99), "unknown dtype 99"),
        (_tensor(encoding=frame_pb2.ENCODING_UNSPECIFIED), "unknown encoding 0"),
        (_tensor(encoding=77), "unknown encoding 77"),
        (_tensor(shape=[]), "shape"),
        (_tensor(shape=[0]), "shape"),
        (_tensor(shape=[6, 0]), "shape"),
        (_tensor(shape=[6, 1, 1, 1, 1]), "5 dimensions"),
        (_tensor(shape=[1] * 100_000), "100000 dimensions"),
        (_tensor(shape=[7]), "needs 28 bytes, not 24"),
        # 2^62 * 4 elements are 0 bytes in arithmetic of 64 bits.
        (_tensor(shape=[1 << 62, 4], data=b""), "needs 73786976294838206464 bytes, not 0"),
        (_tensor(shape=[(1 << 64) - 1] * 4), "bytes, not 24"),
        (_tensor(data=b""), "needs 24 bytes, not 0"),
        (_tensor(data=bytes(25)), "needs 24 bytes, not 25"),
        (_tensor(key=""), "key"),
        (_tensor(key="k" * (MAX_KEY_BYTES + 1)), "key"),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(tensor: frame_pb2.Tensor, complaint: str) -> None:
    with pytest.raises(CodecError, match=complaint):
        decode_tensor(tensor)


def test_a_complaint_names_the_tensor_but_not_at_any_length() -> None:
    with pytest.raises(CodecError) as refused:
        decode_tensor(_tensor(key="k" * 100_000, dtype=99))
    assert "kkk" in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("key", "dtype_name", "shape", "data"),
    [
        ("l_out-0", "q8_0", (32,), bytes(34)),
        ("l_out-0", "f32", (), b""),
        ("l_out-0", "f32", (2,), bytes(4)),
        ("l_out-0", "f32", (-1, -1), bytes(4)),
        ("", "f32", (1,), bytes(4)),
    ],
)
def test_what_would_be_refused_is_not_sent(key: str, dtype_name: str, shape: tuple[int, ...], data: bytes) -> None:
    with pytest.raises(CodecError):
        encode_tensor(key, dtype_name, shape, data)


def test_a_limit_counts_all_tensors_of_a_frame_together() -> None:
    tensors = [_tensor(), _tensor(), _tensor()]
    assert len(decode_tensors(tensors, limit_bytes=72)) == 3
    with pytest.raises(CodecError, match="more than the 23 left"):
        decode_tensors(tensors, limit_bytes=71)


@given(st.binary(max_size=200))
def test_garbage_is_a_correct_tensor_or_a_codec_error(garbage: bytes) -> None:
    try:
        received = frame_pb2.Tensor.FromString(garbage)
    except DecodeError:
        return
    try:
        decoded = decode_tensor(received, limit_bytes=200)
    except CodecError:
        return
    assert len(decoded.data) == int(np.prod(decoded.shape)) * _ITEM_BYTES[decoded.dtype_name]


@given(
    dtype=st.integers(-(1 << 31), (1 << 31) - 1),
    encoding=st.integers(0, 2),
    shape=st.lists(st.integers(0, (1 << 64) - 1) | st.integers(0, 3), max_size=6),
    data=st.binary(max_size=64),
)
def test_any_field_values_are_a_correct_tensor_or_a_codec_error(
    dtype: int, encoding: int, shape: list[int], data: bytes
) -> None:
    received = _tensor(dtype=dtype, encoding=encoding, shape=shape, data=data)
    try:
        decoded = decode_tensor(received)
    except CodecError:
        return
    assert encode_tensor(decoded.key, decoded.dtype_name, decoded.shape, decoded.data) == received
