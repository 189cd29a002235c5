# SPDX-License-Identifier: MIT
"""The weights channel: what comes over a socket is what the contract says, or an error before memory is taken."""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.caravan.v1 import error_pb2, weights_pb2
from protos.weights import (
    MAGIC,
    MESSAGE_LIMIT_BYTES,
    ChannelClosedError,
    ChannelError,
    file_stamp,
    greet,
    held_bits,
    is_held,
    receive_greeting,
    receive_into,
    receive_message,
    send_message,
    welcome,
)

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    one, other = socket.socketpair()
    one.settimeout(5)
    other.settimeout(5)
    with one, other:
        yield one, other


def test_an_ask_and_its_piece_arrive_with_the_raw_bytes_behind_it(ends: Ends) -> None:
    asker, giver = ends
    ask = weights_pb2.WeightsAsk(tensor=7, piece=weights_pb2.Piece(offset=1 << 40, n_bytes=5))
    send_message(asker, ask)
    assert receive_message(giver, weights_pb2.WeightsAsk) == ask
    send_message(giver, weights_pb2.WeightsPiece(tensor=7, piece=ask.piece))
    giver.sendall(b"llama")
    assert receive_message(asker, weights_pb2.WeightsPiece).piece.n_bytes == 5
    data = bytearray(5)
    receive_into(asker, memoryview(data))
    assert data == b"llama"


def test_who_greets_is_welcome_or_hears_why_not(ends: Ends) -> None:
    one, other = ends
    hello = weights_pb2.WeightsHello(role=weights_pb2.WEIGHTS_ROLE_ASKER, identity="ab")
    for error in (None, error_pb2.ErrorDetail(message="not held here")):

        def listen(error: error_pb2.ErrorDetail | None = error) -> None:
            receive_greeting(other)
            welcome(other, error)

        listening = threading.Thread(target=listen)
        listening.start()
        if error is None:
            greet(one, hello)
        else:
            with pytest.raises(ChannelError, match="not held here"):
                greet(one, hello)
        listening.join()


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", MAGIC + struct.pack("<I", MESSAGE_LIMIT_BYTES + 1), MAGIC + b"\x03\0\0\0\xff\xff\xff"],
)
def test_what_is_no_greeting_is_an_error_before_anything_is_reserved(ends: Ends, data: bytes) -> None:
    one, other = ends
    one.sendall(data)
    with pytest.raises(ChannelError):
        receive_greeting(other)


def test_an_end_in_the_middle_is_told_from_an_error(ends: Ends) -> None:
    one, other = ends
    one.sendall(MAGIC + b"\x03\0\0\0\x08")
    one.close()
    with pytest.raises(ChannelClosedError):
        receive_greeting(other)


@given(st.lists(st.booleans(), max_size=40))
def test_bits_say_which_tensors_are_held(held: list[bool]) -> None:
    bits = held_bits(held)
    assert [is_held(bits, index) for index in range(len(held))] == held
    assert not is_held(bits, len(held) + 8)


def test_a_stamp_is_of_one_file_as_it_is(tmp_path: Path) -> None:
    first, twin, link = tmp_path / "first", tmp_path / "twin", tmp_path / "link"
    for path in (first, twin):
        path.write_bytes(b"the same")
        os.utime(path, ns=(0, 0))
    link.symlink_to(first)
    stamp = file_stamp(first)
    assert file_stamp(link) == stamp == file_stamp(first)
    assert file_stamp(twin) != stamp
    first.write_bytes(b"another")
    os.utime(first, ns=(0, 0))
    assert file_stamp(first) != stamp
