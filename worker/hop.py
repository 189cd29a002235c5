# SPDX-License-Identifier: MIT
"""The hop: this stage's own Feed to the next worker. A gRPC client.

The engine thread puts frames, gRPC's own thread takes, serialises and sends them. Whatever ends the stream to the
next worker is turned into a NeighbourError that names the stage whose fault it is.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import grpc

from protos.caravan.v1 import error_pb2, frame_pb2, frame_pb2_grpc
from protos.channels import Channels
from protos.contract import EPOCH_METADATA_KEY, SESSION_METADATA_KEY, channel_options
from protos.failures import detail_from_metadata
from worker.errors import NeighbourError
from worker.handover import Handover
from worker.listening import Endpoint
from worker.session import LoadOrder, Neighbour

if TYPE_CHECKING:
    # A name of the stubs only: grpc.Call and grpc.Future in one.
    from grpc import _CallFuture

# Frames waiting to be sent. Two keep the sender busy; more would only hide a slow link from the stage before.
CAPACITY = 2
# A LAN connects in milliseconds, a sleepy Wi-Fi in a second or two.
CONNECT_TIMEOUT_S = 5.0
# For the whole rest of the line: each stage behind takes its own CONNECT_TIMEOUT_S at worst.
LINE_TIMEOUT_S = 30.0


class Hop:
    """The outlet of every stage but the last."""

    def __init__(self, order: LoadOrder, neighbour: Neighbour, limit_bytes: int, channels: Channels) -> None:
        """Nothing happens before `connect`; `limit_bytes` bounds a frame."""
        self._neighbour = neighbour
        self._queue: Handover[tuple[frame_pb2.FeedRequest, frame_pb2.StageTiming]] = Handover(CAPACITY)
        self._channel = channels.channel(neighbour.address, channel_options(limit_bytes))
        self._metadata = (
            (SESSION_METADATA_KEY, order.session_id),
            (EPOCH_METADATA_KEY, str(order.epoch)),
        )
        self._call: _CallFuture[frame_pb2.FeedResponse] | None = None
        self._finished = False

    def connect(self) -> None:
        """Opens the stream; returns once the next worker, and all behind it, are connected.

        Raises:
            NeighbourError: one of them cannot be reached, or refuses.
        """
        check_reachable(self._neighbour)
        stub = frame_pb2_grpc.LineServiceStub(self._channel)
        call = stub.Feed.future(self._outgoing(), metadata=self._metadata)
        self._call = call
        patience = threading.Timer(LINE_TIMEOUT_S, call.cancel)
        patience.daemon = True
        patience.start()
        try:
            # Empty if the call ended instead, however it did.
            is_connected = bool(call.initial_metadata())
        finally:
            patience.cancel()
        if not is_connected:
            what = f"did not connect its part of the line within {LINE_TIMEOUT_S:.0f} s"
            raise neighbour_error(call, self._neighbour, what)

    def on_lost(self, report: Callable[[NeighbourError], None]) -> None:
        """Calls `report` once, on a thread of gRPC's, if the stream ends before `finish` was called or badly."""
        call = self._connected()

        def ended(_call: object) -> None:
            # The sender may still wait for a frame.
            self._queue.close()
            if not self._finished or call.code() is not grpc.StatusCode.OK:
                report(neighbour_error(call, self._neighbour, "ended the stream too early"))

        call.add_done_callback(ended)

    @property
    def n_waiting(self) -> int:
        """Frames that are not on their way yet, roughly."""
        return self._queue.n_waiting

    def put(self, request: frame_pb2.FeedRequest, timing: frame_pb2.StageTiming) -> bool:
        """Hands a frame to the sender, waiting while the link is behind; False: it is over.

        `timing` is this stage's own entry in it, completed when it is sent.
        """
        return self._queue.put((request, timing))

    def put_word(self, request: frame_pb2.FeedRequest) -> None:
        """Hands what is no frame to the sender, from the thread that reads it, while the engine computes."""
        self._queue.put((request, frame_pb2.StageTiming()))

    def finish(self) -> None:
        """Half-closes after what waits, and blocks until the rest of the line has finished it.

        Raises:
            NeighbourError: it did not.
        """
        call = self._connected()
        self._finished = True
        self._queue.finish()
        # Blocks until the call has ended.
        if call.code() is not grpc.StatusCode.OK:
            raise neighbour_error(call, self._neighbour, "did not finish")

    def end(self, _error: Exception) -> None:
        """Cancels the stream and drops what waits. Safe to repeat, from any thread."""
        if self._call is not None:
            # First: a queue that ends means a half-close to the sender.
            self._call.cancel()
        self._queue.close()

    def close(self) -> None:
        """Closes the connection; not from a thread of gRPC's own, which it waits for."""
        if self._call is not None:
            self._call.cancel()
        self._queue.close()
        self._channel.close()

    def _outgoing(self) -> Iterator[frame_pb2.FeedRequest]:
        for request, timing in self._queue:
            timing.sent_ns = time.monotonic_ns()
            yield request

    def _connected(self) -> "_CallFuture[frame_pb2.FeedResponse]":
        if self._call is None:
            raise RuntimeError("the hop is not connected")
        return self._call


def neighbour_error(call: grpc.Call, neighbour: Neighbour, what: str) -> NeighbourError:
    """Why a stream to another worker ended: in the words of the stage whose error it is, else as gRPC saw it from here.

    Blocks until it has.
    """
    detail = detail_from_metadata(call.trailing_metadata())
    if detail is not None:
        return NeighbourError(detail)
    status = call.code()
    name, address = neighbour.name, neighbour.address
    code = error_pb2.ERROR_CODE_NEIGHBOUR_LOST
    message = f"worker {name} at {address} is gone: {call.details() or status.name}"
    match status:
        case grpc.StatusCode.OK | grpc.StatusCode.CANCELLED:
            message = f"worker {name} at {address} {what}"
        case grpc.StatusCode.UNIMPLEMENTED:
            message = f"what answers at {address} is no worker; {name} should be there"
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            # gRPC's own answer to a message beyond the limit.
            code = error_pb2.ERROR_CODE_BAD_FRAME
            message = f"a frame was too large for worker {name}: {call.details()}"
    retry_safe = code == error_pb2.ERROR_CODE_NEIGHBOUR_LOST
    return NeighbourError(error_pb2.ErrorDetail(code=code, message=message, worker=name, retry_safe=retry_safe))


def check_reachable(neighbour: Neighbour) -> None:
    """Raises NeighbourError, with why, if nothing listens there: the system tells that sooner and better than gRPC."""
    name, address = neighbour.name, neighbour.address
    try:
        endpoint = Endpoint.parse(address)
        socket.create_connection((endpoint.host, endpoint.port), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise NeighbourError(
            error_pb2.ErrorDetail(
                code=error_pb2.ERROR_CODE_NEIGHBOUR_LOST,
                message=f"worker {name} cannot be reached at {address} ({error.strerror or error});"
                " is it running, and is its port open?",
                worker=name,
                retry_safe=True,
            )
        ) from error
