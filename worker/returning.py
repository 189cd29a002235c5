# SPDX-License-Identifier: MIT
"""The way back: sampled tokens from the last stage straight to the first one, where frames that follow others wait.

A lone sequence's next token then goes from worker to worker, and takes one hop less than by the coordinator. The way is
there for speed alone: a line whose last worker cannot reach the first one works without.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import grpc

from protos.caravan.v1 import frame_pb2, frame_pb2_grpc
from protos.channels import Channels
from protos.contract import EPOCH_METADATA_KEY, SESSION_METADATA_KEY, channel_options
from worker.errors import BadFrameError, NeighbourError, StreamLostError
from worker.hop import check_reachable, neighbour_error
from worker.session import LoadOrder, Neighbour

if TYPE_CHECKING:
    # A name of the stubs only: grpc.Call and grpc.Future in one.
    from grpc import _CallFuture

_LOG = logging.getLogger(__name__)

# What no frame follows piles up; a coordinator has one at a time that it means to follow.
_MOST_WAITING = 64


class ReturnedTokens:
    """At the first stage: what came back. The Return's thread reads, the engine takes, anybody ends it."""

    def __init__(self, n_vocab: int) -> None:
        """`is_taken`: a Return reads it."""
        self._n_vocab = n_vocab
        self.is_taken = False
        self._tokens: queue.SimpleQueue[tuple[int, int | None] | None] = queue.SimpleQueue()

    def read(self, requests: Iterator[frame_pb2.ReturnRequest]) -> None:
        """Takes what the last stage sends, until it half-closes; then there is no more.

        Raises:
            StreamLostError: it went away.
            BadFrameError: a token that is none of the model's.
        """
        try:
            for request in requests:
                token = request.token if request.HasField("token") else None
                if token is not None and not 0 <= token < self._n_vocab:
                    raise BadFrameError(f"the last stage returned token {token}, outside [0, {self._n_vocab})")
                if self._tokens.qsize() >= _MOST_WAITING:
                    self._tokens.get()
                self._tokens.put((request.frame_number, token))
        except grpc.RpcError:
            raise StreamLostError("the last stage, which returns tokens, went away; load a new epoch") from None
        finally:
            # If that is too early, the last stage knows why, and says so by the stages in between.
            self.end()

    def take(self, frame_number: int) -> tuple[bool, int | None]:
        """Waits for what that frame sampled, None if nothing was; what frames before it returned is dropped. False:
        it has ended.

        Raises:
            BadFrameError: that frame's has been taken or dropped, or was never returned.
        """
        while True:
            item = self._tokens.get()
            if item is None:
                self._tokens.put(None)
                return False, None
            number, token = item
            if number > frame_number:
                raise BadFrameError(f"a frame follows frame {frame_number}, whose token was not returned")
            if number == frame_number:
                return True, token

    def end(self) -> None:
        """Whoever waits goes away. Safe to repeat."""
        self._tokens.put(None)


class WayBack:
    """At the last stage: its stream to the first one."""

    def __init__(self, order: LoadOrder, first: Neighbour, channels: Channels) -> None:
        """Nothing happens before `connect`."""
        self._first = first
        self._queue: queue.SimpleQueue[frame_pb2.ReturnRequest | None] = queue.SimpleQueue()
        self._channel = channels.channel(first.address, channel_options())
        self._metadata = ((SESSION_METADATA_KEY, order.session_id), (EPOCH_METADATA_KEY, str(order.epoch)))
        self._call: _CallFuture[frame_pb2.ReturnResponse] | None = None
        self._is_over = False
        self._lock = threading.Lock()
        self.is_open = False

    def connect(self, on_lost: Callable[[NeighbourError], None]) -> None:
        """Begins to connect, and waits for nothing. Where that does not succeed, `is_open` stays False.

        Args:
            on_lost: called once, on a thread of gRPC's, if the open stream ends before `finish`, or badly.
        """
        threading.Thread(target=self._connect, args=(on_lost,), name="way-back", daemon=True).start()

    def put(self, frame_number: int, token: int | None) -> None:
        """Sends a token, None for none.

        Raises:
            BadFrameError: the stream is not open, and nobody was told that it is.
        """
        if not self.is_open:
            raise BadFrameError(f"frame {frame_number} is to return its token, and the way back is not open")
        self._queue.put(frame_pb2.ReturnRequest(frame_number=frame_number, token=token))

    def finish(self) -> None:
        """Half-closes after what waits, and blocks until the first stage has it all."""
        with self._lock:
            self._is_over = True
            call = self._call
        self._queue.put(None)
        if call is not None and self.is_open:
            call.code()  # blocks until the call has ended

    def end(self) -> None:
        """Cancels it. Safe to repeat, from any thread."""
        with self._lock:
            self._is_over = True
            call = self._call
        if call is not None:
            # First: a queue that ends means a half-close to the sender.
            call.cancel()
        self._queue.put(None)

    def close(self) -> None:
        """Closes the connection; not from a thread of gRPC's own, which it waits for."""
        self.end()
        self._channel.close()

    def _connect(self, on_lost: Callable[[NeighbourError], None]) -> None:
        try:
            check_reachable(self._first)
            with self._lock:
                if self._is_over:
                    return
                stub = frame_pb2_grpc.LineServiceStub(self._channel)
                call = self._call = stub.Return.future(iter(self._queue.get, None), metadata=self._metadata)
            # Empty if the call ended instead, however it did.
            if not call.initial_metadata():
                raise neighbour_error(call, self._first, "does not take tokens back")
        except (NeighbourError, ValueError) as error:  # ValueError: the channel was closed meanwhile
            if not self._is_over:
                _LOG.info("tokens go back by the coordinator: %s", error)
            return
        self.is_open = True

        def ended(_call: object) -> None:
            self._queue.put(None)
            if not self._is_over:
                on_lost(neighbour_error(call, self._first, "takes no tokens back any more"))

        call.add_done_callback(ended)
