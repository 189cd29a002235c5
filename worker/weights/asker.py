# SPDX-License-Identifier: MIT
"""Asks over one connection, ahead of what comes, and hands on what comes. On a thread of its own.

It knows one buffer, whatever is under way: what was asked for and has not been read waits in the system's, and holds
the other end up when that is full.
"""

import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from protos.caravan.v1 import weights_pb2
from protos.channels import hang_up
from protos.weights import HASH_BYTES, ChannelError, receive_into, receive_message, send_message
from worker.weights.sources import COORDINATOR, Source
from worker.weights.steps import Ask, AskAddress, AskHash, AskPiece
from worker.weights.waiting import limit_waits

# What is received, hashed and written at once: it stays in a processor's cache meanwhile.
_BUFFER_BYTES = 1 << 20
# Asked for and not here yet: what a connection brings in this time, within these bounds, so that a slow one keeps
# little from others.
_AHEAD_S = 0.5
_LEAST_AHEAD_BYTES = 4 << 20
_MOST_AHEAD_BYTES = 32 << 20
_MOST_ASKS_AHEAD = 64
# Without a byte for so long, a source hangs. A coordinator may have to wait for a server, with patience, and whether it
# is alive at all the call that loads tells.
_PEER_STALL_S = 20.0
_COORDINATOR_STALL_S = 300.0
# A peer that takes longer for a piece keeps bytes from us that others have.
_PEER_PIECE_S = 60.0
# A coordinator hashes at least so fast, from a disk that turns.
_SLOWEST_HASHING_BYTES_PER_S = 20e6


class FetchOverError(Exception):
    """Nothing more is to be asked: the fetch is done, failed or cancelled."""


class Work(Protocol):
    """What an asker asks for, and what it does with what came. The number is its connection's."""

    def next(self, number: int, *, may_wait: bool) -> Ask | None:
        """What to ask next. Without `may_wait` None where there is nothing now. Raises FetchOverError."""

    def piece_came(self, number: int, tensor: int, offset: int, view: memoryview) -> None:
        """Some bytes of a piece. Raises FetchOverError."""

    def hash_came(self, number: int, tensor: int, hash: bytes) -> None:
        """The hash of a tensor. Raises FetchOverError."""

    def address_came(self, number: int, tensor: int, address: weights_pb2.WeightAddress) -> None:
        """Where the part is read that the tensor lies in. Raises FetchOverError."""

    def refused(self, number: int, reason: str) -> None:
        """The oldest thing that was asked for cannot be given."""

    def gone(self, number: int, reason: str) -> None:
        """The connection ended, or could not be made."""


class Asker:
    """One connection, from when it is needed until it or the fetch ends."""

    def __init__(
        self, number: int, source: Source, work: Work, connection: socket.socket | Callable[[], socket.socket]
    ) -> None:
        """`connection` is one that is welcome, or makes one when there is something to ask; that may raise ChannelError
        and OSError."""
        self.number = number
        self.source = source
        self._work = work
        self._new_connection: socket.socket | Callable[[], socket.socket] | None = connection
        self._connection = connection if isinstance(connection, socket.socket) else None
        self._is_hung_up = False
        self._stall_s = _COORDINATOR_STALL_S if source == COORDINATOR else _PEER_STALL_S
        self._asked: deque[Ask] = deque()
        self._ahead_bytes = 0
        self._bytes_per_s = 0.0
        self._piece_since: float | None = None
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    def run(self) -> None:
        """Blocks until there is nothing more to ask, or nobody to ask it of."""
        reason = ""
        try:
            self._ask_and_receive()
        except FetchOverError:
            pass
        except (BlockingIOError, TimeoutError):
            reason = f"{self.source} gave nothing for {self._stall_s:.0f} s"
        except ChannelError as error:
            reason = f"{self.source}: {error}"
        except OSError as error:
            reason = f"the connection to {self.source} failed ({error.strerror or error})"
        finally:
            if self._connection is not None:
                self._connection.close()
            self._work.gone(self.number, reason)

    def is_overdue(self, now: float) -> bool:
        """Whether a piece takes longer than it may."""
        since = self._piece_since
        return self.source != COORDINATOR and since is not None and now - since > _PEER_PIECE_S

    def hang_up(self) -> None:
        """Ends it, from another thread."""
        self._is_hung_up = True
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                hang_up(connection)

    def _ask_and_receive(self) -> None:
        while True:
            self._ask_ahead()
            self._receive(self._asked[0])
            self._asked.popleft()

    def _ask_ahead(self) -> None:
        """Returns with something asked."""
        ahead_bytes = min(max(self._bytes_per_s * _AHEAD_S, _LEAST_AHEAD_BYTES), _MOST_AHEAD_BYTES)
        while not self._asked or (self._ahead_bytes < ahead_bytes and len(self._asked) < _MOST_ASKS_AHEAD):
            step = self._work.next(self.number, may_wait=not self._asked)
            if step is None:
                return
            self._asked.append(step)
            self._ask(step)

    def _ask(self, step: Ask) -> None:
        if self._new_connection is not None:
            new, self._new_connection = self._new_connection, None
            self._connection = new if isinstance(new, socket.socket) else new()
            limit_waits(self._connection, receive_s=self._stall_s, send_s=self._stall_s)
        assert self._connection is not None, "it was made"
        if self._is_hung_up:
            raise ChannelError("it was hung up on")
        ask = weights_pb2.WeightsAsk(tensor=step.tensor)
        if isinstance(step, AskPiece):
            ask.piece.offset, ask.piece.n_bytes = step.offset, step.n_bytes
            self._ahead_bytes += step.n_bytes
        elif isinstance(step, AskHash):
            ask.hash = True
        else:
            ask.address = True
        send_message(self._connection, ask)

    def _receive(self, asked: Ask) -> None:
        assert self._connection is not None, "nothing is asked without a connection"
        started = self._piece_since = time.monotonic()
        if isinstance(asked, AskHash):
            hashing_s = asked.n_bytes / _SLOWEST_HASHING_BYTES_PER_S
            limit_waits(self._connection, receive_s=self._stall_s + hashing_s, send_s=self._stall_s)
        answer = receive_message(self._connection, weights_pb2.WeightsPiece)
        what = answer.WhichOneof("what")
        if isinstance(asked, AskPiece):
            self._ahead_bytes -= asked.n_bytes
        if answer.tensor == asked.tensor and what == "error":
            self._work.refused(self.number, f"{self.source}: {answer.error.message}")
        elif isinstance(asked, AskHash) and answer.tensor == asked.tensor and len(answer.hash) == HASH_BYTES:
            limit_waits(self._connection, receive_s=self._stall_s, send_s=self._stall_s)
            self._work.hash_came(self.number, asked.tensor, answer.hash)
        elif isinstance(asked, AskAddress) and answer.tensor == asked.tensor and what == "address":
            self._work.address_came(self.number, asked.tensor, answer.address)
        elif isinstance(asked, AskPiece) and what == "piece" and _is_answer(asked, answer):
            self._receive_piece(self._connection, asked)
            self._measure(asked.n_bytes, time.monotonic() - started)
        else:
            raise ChannelError("it gave something else than it was asked for")
        self._piece_since = None

    def _receive_piece(self, connection: socket.socket, asked: AskPiece) -> None:
        for start in range(0, asked.n_bytes, _BUFFER_BYTES):
            view = self._buffer[: min(_BUFFER_BYTES, asked.n_bytes - start)]
            receive_into(connection, view)
            self._work.piece_came(self.number, asked.tensor, asked.offset + start, view)

    def _measure(self, n_bytes: int, seconds: float) -> None:
        rate = n_bytes / max(seconds, 1e-6)
        self._bytes_per_s = rate if self._bytes_per_s == 0 else 0.7 * self._bytes_per_s + 0.3 * rate


def _is_answer(asked: AskPiece, answer: weights_pb2.WeightsPiece) -> bool:
    piece = answer.piece
    return (answer.tensor, piece.offset, piece.n_bytes) == (asked.tensor, asked.offset, asked.n_bytes)
