# SPDX-License-Identifier: MIT
"""Gives what is here of a model to another worker that asks for it: one connection, on the thread of its caller.

From the file to the socket by the system itself (sendfile); where there is none, or it must be encrypted, through a
buffer.
"""

import os
import socket
import ssl
from collections.abc import Callable

from protos.caravan.v1 import error_pb2, weights_pb2
from protos.weights import PIECE_LIMIT_BYTES, ChannelClosedError, ChannelError, receive_message, send_message
from worker.weights.piece import Piece
from worker.weights.waiting import limit_waits

# An asker that waits for other sources, or for its own limit, asks nothing for a while; one that is gone never again.
_IDLE_S = 300.0
# How long it may take nothing of what it asked for.
_STALL_S = 60.0
_BUFFER_BYTES = 1 << 20

# Where a tensor lies; None: it is not here, or there is no such tensor.
Find = Callable[[int], Piece | None]


def give(connection: socket.socket, find: Find) -> None:
    """Answers until the asker hangs up.

    Raises:
        ChannelError: it asks for what no asker may ask, or a file ended while it was given.
        OSError: the connection failed, or a file.
    """
    limit_waits(connection, receive_s=_IDLE_S, send_s=_STALL_S)
    while True:
        try:
            ask = receive_message(connection, weights_pb2.WeightsAsk)
        except ChannelClosedError:
            return
        where = find(ask.tensor)
        refusal = _refusal(ask, where)
        if refusal is not None or where is None:
            send_message(connection, weights_pb2.WeightsPiece(tensor=ask.tensor, error=refusal))
            continue
        send_message(connection, weights_pb2.WeightsPiece(tensor=ask.tensor, piece=ask.piece))
        _send_file(connection, where.fd, where.offset_bytes + ask.piece.offset, ask.piece.n_bytes)


def _refusal(ask: weights_pb2.WeightsAsk, where: Piece | None) -> error_pb2.ErrorDetail | None:
    """Why it is not given; None: it is."""
    if ask.WhichOneof("what") != "piece":
        return _detail(error_pb2.ERROR_CODE_INVALID_ARGUMENT, "a worker gives pieces of tensors, and nothing else")
    if where is None:
        return _detail(error_pb2.ERROR_CODE_NO_SOURCE, "the tensor is not here")
    start, n_bytes = ask.piece.offset, ask.piece.n_bytes
    if not 1 <= n_bytes <= PIECE_LIMIT_BYTES or start + n_bytes > where.n_bytes:
        message = f"bytes [{start}, {start + n_bytes}) are no piece of a tensor of {where.n_bytes} bytes"
        return _detail(error_pb2.ERROR_CODE_INVALID_ARGUMENT, message)
    return None


def _detail(code: "error_pb2.ErrorCode", message: str) -> error_pb2.ErrorDetail:
    return error_pb2.ErrorDetail(code=code, message=message)


def _send_file(connection: socket.socket, fd: int, offset: int, n_bytes: int) -> None:
    end = offset + n_bytes
    while offset < end:
        n_sent = _send_some(connection, fd, offset, end - offset)
        if n_sent == 0:
            # As much as was promised cannot be given any more: the asker must not take what follows for it.
            raise ChannelError(f"the file of the weights ends at byte {offset}")
        offset += n_sent


def _send_some(connection: socket.socket, fd: int, offset: int, n_bytes: int) -> int:
    """As sendfile: how much was sent; 0 at the end of the file."""
    if hasattr(os, "sendfile") and not isinstance(connection, ssl.SSLSocket):
        return os.sendfile(connection.fileno(), fd, offset, n_bytes)
    data = os.pread(fd, min(n_bytes, _BUFFER_BYTES), offset)
    connection.sendall(data)
    return len(data)
