# SPDX-License-Identifier: MIT
"""A worker's weights port, as far as a giver sees it: listens, welcomes, asks."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from protos.caravan.v1 import error_pb2, weights_pb2
from protos.weights import receive_greeting, receive_into, receive_message, send_message, welcome

_TIMEOUT_S = 10.0


class Asker:
    """One connection of a giver."""

    def __init__(self, connection: socket.socket, error: error_pb2.ErrorDetail | None = None) -> None:
        self.connection = connection
        connection.settimeout(_TIMEOUT_S)
        self.hello = receive_greeting(connection)
        welcome(connection, error)

    def ask_piece(self, tensor: int, offset: int, n_bytes: int) -> None:
        """Asks, and does not wait."""
        piece = weights_pb2.Piece(offset=offset, n_bytes=n_bytes)
        send_message(self.connection, weights_pb2.WeightsAsk(tensor=tensor, piece=piece))

    def ask_hash(self, tensor: int) -> None:
        """Asks, and does not wait."""
        send_message(self.connection, weights_pb2.WeightsAsk(tensor=tensor, hash=True))

    def answer(self) -> weights_pb2.WeightsPiece:
        """The next answer, without the bytes behind it."""
        return receive_message(self.connection, weights_pb2.WeightsPiece)

    def piece(self, tensor: int, offset: int, n_bytes: int) -> bytes:
        """Asks and waits for the bytes."""
        self.ask_piece(tensor, offset, n_bytes)
        return self.piece_bytes(tensor, offset, n_bytes)

    def piece_bytes(self, tensor: int, offset: int, n_bytes: int) -> bytes:
        """Bytes that were asked for and come next."""
        answer = self.answer()
        assert answer.WhichOneof("what") == "piece", answer.error.message
        assert (answer.tensor, answer.piece.offset, answer.piece.n_bytes) == (tensor, offset, n_bytes)
        return self.bytes_behind(answer)

    def bytes_behind(self, answer: weights_pb2.WeightsPiece) -> bytes:
        """The bytes that follow a piece's message."""
        data = bytearray(answer.piece.n_bytes)
        receive_into(self.connection, memoryview(data))
        return bytes(data)

    def hash(self, tensor: int) -> bytes:
        """Asks and waits."""
        self.ask_hash(tensor)
        answer = self.answer()
        assert answer.WhichOneof("what") == "hash", answer.error.message
        return answer.hash

    def error(self) -> error_pb2.ErrorDetail:
        """The next answer, which is one."""
        answer = self.answer()
        assert answer.WhichOneof("what") == "error", answer
        return answer.error


class Port:
    """Where givers connect to."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._askers: list[Asker] = []
        self.number: int = listening.getsockname()[1]

    def accept(self, error: error_pb2.ErrorDetail | None = None) -> Asker:
        """The next giver; turned away with that error."""
        self._listening.settimeout(_TIMEOUT_S)
        connection, _ = self._listening.accept()
        self._askers.append(Asker(connection, error))
        return self._askers[-1]

    def close(self) -> None:
        """Hangs up on all."""
        for asker in self._askers:
            asker.connection.close()
        self._listening.close()


@contextlib.contextmanager
def open_port() -> Iterator[Port]:
    """A port on loopback."""
    port = Port(socket.create_server(("127.0.0.1", 0)))
    try:
        yield port
    finally:
        port.close()
