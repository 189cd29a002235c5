# SPDX-License-Identifier: MIT
"""Giving a model's weights to a worker that loads: connections to its weights port, each on a thread of its own that
answers what is asked until the worker hangs up (weights.proto). Started and ended on the event loop, by `delivery`.

From a file of this machine the bytes go to the connection without passing through this process (sendfile), unless they
must be encrypted; from a server a piece is read whole before it is sent, so that an error can still be told.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.errors import CancelledError, ModelError, WeightsError
from coordinator.weights.cancellation import Cancellation
from coordinator.weights.hashes import TensorHashes
from coordinator.weights.source import WeightReader, WeightSource
from native import TensorLayout
from protos.caravan.v1 import error_pb2, weights_pb2
from protos.channels import Channels
from protos.weights import PIECE_LIMIT_BYTES, ChannelError, greet, receive_message, send_message

MAX_CONNECTIONS = 16
"""To one worker. More do not make a link faster, and each may hold a piece in memory."""

_CONNECT_TIMEOUT_S = 10.0
_GREETING_TIMEOUT_S = 20.0
"""A worker answers at once; one whose machine is busy hashing, a little later."""

_END_TIMEOUT_S = 2.0
"""For a thread to notice that it is to end. What waits for a server's first byte may take longer, and ends alone."""

_SEND_BYTES = 1 << 20
_MAX_SENTENCE = 2000
"""Characters; what a server says of itself may be longer."""

_NOT_BY_SENDFILE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP, errno.EIO}
"""What a system answers that cannot send from this file straight to a connection; and a disk's error, of which reading
tells more."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """A worker that takes weights.

    Attributes:
        host: Of its gRPC address.
        port: Its weights port.
    """

    worker: str
    host: str
    port: int
    channels: Channels


class Giving:
    """The connections to one worker, for one load; ended by `close`.

    Args:
        hello: With what to greet it.
        on_lost: Called on a thread of this, once, when no connection could be made.
    """

    def __init__(
        self,
        source: WeightSource,
        hashes: TensorHashes,
        receiver: Receiver,
        hello: weights_pb2.WeightsHello,
        on_lost: Callable[[WeightsError], None],
    ) -> None:
        self._source = source
        self._hashes = hashes
        self._receiver = receiver
        self._hello = hello
        self._on_lost = on_lost
        self._cancellation = Cancellation()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._n_failed = 0
        self._error: ModelError | None = None

    @property
    def error(self) -> ModelError | None:
        """The last thing that could not be given, and why."""
        return self._error

    def connect(self, n_connections: int) -> None:
        """Opens so many, bounded; returns at once."""
        room = MAX_CONNECTIONS - len(self._threads)
        new = [
            threading.Thread(target=self._run, name=f"caravan-give-{self._receiver.worker}", daemon=True)
            for _ in range(min(n_connections, room))
        ]
        self._threads += new
        for thread in new:
            thread.start()

    async def close(self) -> None:
        """Ends them all. Their threads have ended when this returns, but for one that waits for a server's answer."""
        self._cancellation.cancel()
        if self._threads:
            await asyncio.shield(asyncio.to_thread(self._join))

    def _join(self) -> None:
        until_s = time.monotonic() + _END_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    def _run(self) -> None:
        """One connection, on its thread."""
        try:
            connection = self._connected()
        except (OSError, ChannelError) as error:
            self._note_lost(error)
            return
        except CancelledError:
            return
        with (
            contextlib.suppress(OSError, ChannelError, CancelledError),
            connection,
            self._cancellation.wakes(connection),
            self._source.reader(self._cancellation) as reader,
        ):
            answers = _Answers(connection, self._source, self._hashes, reader, self._cancellation, self._note_error)
            while True:
                answers.give(receive_message(connection, weights_pb2.WeightsAsk))

    def _note_error(self, error: ModelError) -> None:
        self._error = error

    def _connected(self) -> socket.socket:
        """Where this end is welcome. Raises OSError, ChannelError, CancelledError."""
        receiver = self._receiver
        connection = socket.create_connection((receiver.host, receiver.port), timeout=_CONNECT_TIMEOUT_S)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(_GREETING_TIMEOUT_S)
            connection = receiver.channels.connected(connection)
            with self._cancellation.wakes(connection):
                greet(connection, self._hello)
            # From here on the load bounds the time: when it ends, so does this.
            connection.settimeout(None)
        except BaseException:
            connection.close()
            raise
        return connection

    def _note_lost(self, error: Exception) -> None:
        with self._lock:
            self._n_failed += 1
            is_last = self._n_failed == len(self._threads)
        if not is_last or self._cancellation.is_asked:
            return
        receiver = self._receiver
        if isinstance(error, OSError):
            reason = f"port {receiver.port} of {receiver.host} cannot be reached ({error.strerror or error}): let it "
            reason += "through that machine's firewall"
        else:
            reason = f"it turned us away: {error}"
        message = f"weights cannot be given to {receiver.worker}: {reason}"
        self._on_lost(WeightsError(message, worker=receiver.worker, retry_safe=True))


class _Answers:
    """What one connection's asks are answered with."""

    def __init__(
        self,
        connection: socket.socket,
        source: WeightSource,
        hashes: TensorHashes,
        reader: WeightReader,
        cancellation: Cancellation,
        on_error: Callable[[ModelError], None],
    ) -> None:
        self._connection = connection
        self._source = source
        self._cancellation = cancellation
        self._tensors = source.layout.tensors
        self._hashes = hashes
        self._reader = reader
        self._on_error = on_error
        self._buffer = bytearray()
        self._sends_files = hasattr(os, "sendfile") and not isinstance(connection, ssl.SSLSocket)

    def give(self, ask: weights_pb2.WeightsAsk) -> None:
        """Answers; with an error, if the source has one.

        Raises:
            OSError: The connection is gone.
            ChannelError: What was begun cannot be given to its end, so that the connection must end.
            CancelledError: It was called off.
        """
        refusal = self._refusal(ask)
        if refusal:
            self._tell(ask.tensor, error_pb2.ERROR_CODE_INVALID_ARGUMENT, refusal)
            return
        tensor = self._tensors[ask.tensor]
        try:
            if ask.WhichOneof("what") == "hash":
                digest = self._hashes.hash_of(ask.tensor, self._reader)
                send_message(self._connection, weights_pb2.WeightsPiece(tensor=ask.tensor, hash=digest))
            elif ask.WhichOneof("what") == "address":
                address = self._source.renewed(tensor.file_index, self._cancellation).message()
                send_message(self._connection, weights_pb2.WeightsPiece(tensor=ask.tensor, address=address))
            elif (descriptor := self._descriptor(tensor)) is not None:
                self._send_from_file(ask, tensor, descriptor)
            else:
                self._send_read(ask, tensor)
        except ModelError as error:
            self._on_error(error)
            self._tell(ask.tensor, error_pb2.ERROR_CODE_NO_SOURCE, str(error), retry_safe=error.retry_safe)

    def _refusal(self, ask: weights_pb2.WeightsAsk) -> str:
        """Why an ask makes no sense; empty if it does."""
        if ask.tensor >= len(self._tensors):
            return f"there is no tensor {ask.tensor}: the model has {len(self._tensors)}"
        n_bytes = self._tensors[ask.tensor].n_bytes
        what, piece = ask.WhichOneof("what"), ask.piece
        if what is None or (what == "hash" and not ask.hash) or (what == "address" and not ask.address):
            return "nothing is asked for: neither a piece nor a hash nor an address"
        if what == "piece" and not 0 < piece.n_bytes <= PIECE_LIMIT_BYTES:
            return f"a piece of {piece.n_bytes} bytes is asked for; it has 1 to {PIECE_LIMIT_BYTES}"
        if what == "piece" and piece.offset + piece.n_bytes > n_bytes:
            return f"bytes {piece.offset} to {piece.offset + piece.n_bytes} are asked for of a tensor of {n_bytes}"
        return ""

    def _descriptor(self, tensor: TensorLayout) -> int | None:
        """Of the file that the tensor lies in, unchanged."""
        descriptor = self._reader.descriptor(tensor.file_index)
        if descriptor is not None:
            self._reader.check(tensor.file_index)
        return descriptor

    def _send_from_file(self, ask: weights_pb2.WeightsAsk, tensor: TensorLayout, descriptor: int) -> None:
        offset, left = tensor.offset_bytes + ask.piece.offset, ask.piece.n_bytes
        send_message(self._connection, weights_pb2.WeightsPiece(tensor=ask.tensor, piece=ask.piece))
        # Once its message is out, a piece cannot become an error any more: then the connection ends with it.
        try:
            sent = self._sendfile(descriptor, offset, left) if self._sends_files else 0
            offset, left = offset + sent, left - sent
            while left:
                view = self._view(min(left, _SEND_BYTES))
                self._reader.read_into(tensor.file_index, offset, view, until=offset + left)
                self._connection.sendall(view)
                offset, left = offset + len(view), left - len(view)
        except ModelError as error:
            self._on_error(error)
            raise ChannelError(str(error)) from None

    def _sendfile(self, descriptor: int, offset: int, n_bytes: int) -> int:
        """How many bytes went; less than all where this cannot send more of the file."""
        sent = 0
        while sent < n_bytes:
            try:
                n = os.sendfile(self._connection.fileno(), descriptor, offset + sent, n_bytes - sent)
            except OSError as error:
                if error.errno not in _NOT_BY_SENDFILE:
                    raise
                self._sends_files = False
                break
            if not n:
                break
            sent += n
        return sent

    def _send_read(self, ask: weights_pb2.WeightsAsk, tensor: TensorLayout) -> None:
        view = self._view(ask.piece.n_bytes)
        end = tensor.offset_bytes + tensor.n_bytes
        self._reader.read_into(tensor.file_index, tensor.offset_bytes + ask.piece.offset, view, until=end)
        self._hashes.feed(ask.tensor, ask.piece.offset, view)
        send_message(self._connection, weights_pb2.WeightsPiece(tensor=ask.tensor, piece=ask.piece))
        self._connection.sendall(view)

    def _view(self, n_bytes: int) -> memoryview:
        if len(self._buffer) < n_bytes:
            self._buffer = bytearray(n_bytes)
        return memoryview(self._buffer)[:n_bytes]

    def _tell(self, tensor: int, code: error_pb2.ErrorCode, message: str, *, retry_safe: bool = False) -> None:
        error = error_pb2.ErrorDetail(code=code, message=message[:_MAX_SENTENCE], retry_safe=retry_safe)
        send_message(self._connection, weights_pb2.WeightsPiece(tensor=tensor, error=error))
