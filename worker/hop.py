# SPDX-License-Identifier: MIT
"""The hop: this stage's own Feed to the next worker. The one module that is a gRPC client.

The engine thread puts frames, gRPC's own thread takes, serialises and sends them. Whatever ends the stream to the
next worker is turned into a NeighbourError that names the stage whose fault it is.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import grpc

from protos.caravan.v1 import error_pb2, frame_pb2, frame_pb2_grpc
from protos.contract import EPOCH_METADATA_KEY, SESSION_METADATA_KEY, channel_options
from protos.failures import code_of_bare_status, detail_from_metadata
from worker.errors import NeighbourError
from worker.handover import Handover
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

    def __init__(self, order: LoadOrder, neighbour: Neighbour, limit_bytes: int) -> None:
        """Nothing happens before `connect`; `limit_bytes` bounds a frame."""
        self._neighbour = neighbour
        self._queue: Handover[frame_pb2.FeedRequest] = Handover(CAPACITY)
        self._channel = grpc.insecure_channel(neighbour.address, options=channel_options(limit_bytes))
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
        self._reach()
        stub = frame_pb2_grpc.LineServiceStub(self._channel)
        call = stub.Feed.future(self._outgoing(), metadata=self._metadata)
        self._call = call
        patience = threading.Timer(LINE_TIMEOUT_S, call.cancel)
        patience.daemon = True
        patience.start()
        try:
            # Returns when the call ended, too, however it did.
            call.initial_metadata()
        finally:
            patience.cancel()
        if call.done():
            raise self._error(call, f"did not connect its part of the line within {LINE_TIMEOUT_S:.0f} s")

    def on_lost(self, report: Callable[[NeighbourError], None]) -> None:
        """Calls `report` once, on a thread of gRPC's, if the stream ends before `finish` was called or badly."""
        call = self._connected()

        def ended(_call: object) -> None:
            # The sender may still wait for a frame.
            self._queue.close()
            if not self._finished or call.code() is not grpc.StatusCode.OK:
                report(self._error(call, "ended the stream too early"))

        call.add_done_callback(ended)

    def put(self, request: frame_pb2.FeedRequest) -> bool:
        """Hands a frame to the sender, waiting while the link is behind; False: it is over."""
        return self._queue.put(request)

    def finish(self) -> None:
        """Half-closes after what waits, and blocks until the rest of the line has finished it.

        Raises:
            NeighbourError: it did not.
        """
        call = self._connected()
        self._finished = True
        self._queue.finish()
        if call.exception() is not None:
            raise self._error(call, "did not finish")

    def end(self, _error: Exception) -> None:
        """Drops what waits and cancels the stream. Safe to repeat, from any thread."""
        self._queue.close()
        if self._call is not None:
            self._call.cancel()

    def close(self) -> None:
        """Closes the connection; not from a thread of gRPC's own, which it waits for."""
        self._queue.close()
        self._channel.close()

    def _reach(self) -> None:
        """Connects, or says which worker cannot be reached at which address."""
        states: list[grpc.ChannelConnectivity] = []
        settled = threading.Event()

        def watch(state: grpc.ChannelConnectivity) -> None:
            states.append(state)
            if state in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE):
                settled.set()

        self._channel.subscribe(watch, try_to_connect=True)
        settled.wait(CONNECT_TIMEOUT_S)
        self._channel.unsubscribe(watch)
        if grpc.ChannelConnectivity.READY not in states:
            why = "refuses the connection" if settled.is_set() else f"did not answer in {CONNECT_TIMEOUT_S:.0f} s"
            raise NeighbourError(
                error_pb2.ErrorDetail(
                    code=error_pb2.ERROR_CODE_NEIGHBOUR_LOST,
                    message=f"worker {self._neighbour.name} cannot be reached: {self._neighbour.address} {why};"
                    " is it running, and is its port open?",
                    worker=self._neighbour.name,
                    retry_safe=True,
                )
            )

    def _outgoing(self) -> Iterator[frame_pb2.FeedRequest]:
        for request in self._queue:
            request.frame.timings[-1].sent_ns = time.monotonic_ns()
            yield request

    def _connected(self) -> "_CallFuture[frame_pb2.FeedResponse]":
        if self._call is None:
            raise RuntimeError("the hop is not connected")
        return self._call

    def _error(self, call: "_CallFuture[frame_pb2.FeedResponse]", what: str) -> NeighbourError:
        """Why the stream ended: in the words of the stage whose error it is, else as gRPC saw it from here."""
        detail = detail_from_metadata(call.trailing_metadata())
        if detail is not None:
            return NeighbourError(detail)
        status = call.code()
        lost = error_pb2.ERROR_CODE_NEIGHBOUR_LOST
        code = lost
        if status in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED):
            code = code_of_bare_status(status)
        name, address = self._neighbour.name, self._neighbour.address
        said = call.details() or status.name
        if status in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED):
            message = f"worker {name} at {address} {what}"
        else:
            message = f"worker {name} at {address} is gone: {said}"
        return NeighbourError(error_pb2.ErrorDetail(code=code, message=message, worker=name, retry_safe=code == lost))
