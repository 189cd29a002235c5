# SPDX-License-Identifier: MIT
"""The weights channel (weights.proto): framing over a blocking socket, the greeting, and the limits that hold before
memory is touched. Used by worker and coordinator, each connection on a thread of its own. Beside it what both say of
weights in control.proto: which tensors are held, and which file is meant.
"""

import hashlib
import socket
import ssl
import struct
import uuid
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from protos.boot import boot_id
from protos.caravan.v1 import error_pb2, weights_pb2

MAGIC = b"CRVNWGT1"
# Of an ask, an answer or a greeting: names, numbers, a hash or a sentence.
MESSAGE_LIMIT_BYTES = 64 << 10
# Of raw bytes behind one WeightsPiece.
PIECE_LIMIT_BYTES = 16 << 20
HASH_BYTES = 32

_LENGTH = struct.Struct("<I")

_Message = TypeVar("_Message", bound=Message)


class ChannelError(Exception):
    """The other end says what the contract does not allow, or turned us away; the message says which."""


class ChannelClosedError(ChannelError):
    """The other end hung up."""


def send_message(connection: socket.socket, message: Message) -> None:
    """Raises OSError."""
    data = message.SerializeToString()
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive_message(connection: socket.socket, kind: type[_Message]) -> _Message:
    """The next message.

    Raises:
        ChannelClosedError: there is none any more.
        ChannelError: it is too long, or none of that kind.
        OSError: the connection failed, or its timeout passed.
    """
    (n_bytes,) = _LENGTH.unpack(_receive(connection, _LENGTH.size))
    if n_bytes > MESSAGE_LIMIT_BYTES:
        raise ChannelError(f"a message of {n_bytes} bytes was announced; at most {MESSAGE_LIMIT_BYTES} are allowed")
    message = kind()
    try:
        message.ParseFromString(_receive(connection, n_bytes))
    except DecodeError as error:
        raise ChannelError(f"what came is no {kind.DESCRIPTOR.name}") from error
    return message


def receive_into(connection: socket.socket, view: memoryview) -> None:
    """Fills all of `view` with raw bytes.

    Raises:
        ChannelClosedError: they end before.
        OSError: the connection failed, or its timeout passed.
    """
    # A few bytes at a time would cost more in calls than in copying.
    flags = 0 if isinstance(connection, ssl.SSLSocket) else socket.MSG_WAITALL
    while view:
        n_bytes = connection.recv_into(view, 0, flags)
        if n_bytes == 0:
            raise ChannelClosedError("the other end hung up")
        view = view[n_bytes:]


def greet(connection: socket.socket, hello: weights_pb2.WeightsHello) -> None:
    """The connecting end's greeting; returns once it is welcome.

    Raises:
        ChannelError: it is not, or the other end speaks something else.
        OSError: the connection failed, or its timeout passed.
    """
    connection.sendall(MAGIC)
    send_message(connection, hello)
    welcome = receive_message(connection, weights_pb2.WeightsWelcome)
    if welcome.HasField("error"):
        raise ChannelError(welcome.error.message or "turned away without a reason")


def receive_greeting(connection: socket.socket) -> weights_pb2.WeightsHello:
    """The listening end's: what the other wants. To be answered with `welcome`.

    Raises:
        ChannelError: it is no greeting.
        OSError: the connection failed, or its timeout passed.
    """
    if _receive(connection, len(MAGIC)) != MAGIC:
        raise ChannelError("whoever connected does not speak the weights channel")
    return receive_message(connection, weights_pb2.WeightsHello)


def welcome(connection: socket.socket, error: "error_pb2.ErrorDetail | None" = None) -> None:
    """Welcomes the other end, or turns it away. Raises OSError."""
    send_message(connection, weights_pb2.WeightsWelcome(error=error))


def held_bits(held: "list[bool]") -> bytes:
    """As in OfferResponse.held_tensors."""
    bits = bytearray((len(held) + 7) // 8)
    for index, is_held in enumerate(held):
        bits[index // 8] |= is_held << (index % 8)
    return bytes(bits)


def is_held(bits: bytes, tensor: int) -> bool:
    """Whether `held_bits` names that tensor; what is beyond its end is not held."""
    return tensor // 8 < len(bits) and bool(bits[tensor // 8] >> (tensor % 8) & 1)


def file_stamp(path: Path) -> str:
    """ModelPart.stamp of the file at `path`, links followed: equal only for the very same file on the same machine,
    since it last changed. Nothing of the file is read.

    Raises:
        OSError: it is not there.
    """
    about = path.stat()
    machine = boot_id() or f"{uuid.getnode():x}"
    facts = (machine, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    return hashlib.sha256(":".join(map(str, facts)).encode()).hexdigest()


def _receive(connection: socket.socket, n_bytes: int) -> bytes:
    data = bytearray(n_bytes)
    receive_into(connection, memoryview(data))
    return bytes(data)
