# SPDX-License-Identifier: MIT
"""A coordinator that offers a model's file to workers and gives it to their loads, as well or as badly as told."""

import contextlib
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from native import LayerRange, ModelLayout, read_layout
from native.placement import tensors_elsewhere
from protos.caravan.v1 import control_pb2, error_pb2, weights_pb2
from protos.weights import ChannelClosedError, ChannelError, greet, receive_message, send_message
from tests.worker.driver import WorkerProcess, load_request, stage_spec

_STALL_S = 20.0


class HangUp(Exception):
    """Raised by a fault: the connection ends here."""


@dataclass
class Coordinator:
    """What it gives is counted as it goes to the sockets, messages and all.

    `spoil` changes a piece's bytes or raises HangUp; `spoil_hash` a hash; `pace_bytes_per_s` is of each connection;
    `address` tells where the model is on a server.
    """

    model: Path
    spoil: Callable[[weights_pb2.WeightsAsk, bytes], bytes] = lambda ask, data: data
    spoil_hash: Callable[[int, bytes], bytes] = lambda tensor, hash: hash
    pace_bytes_per_s: float = 0.0
    address: Callable[[], weights_pb2.WeightAddress] = weights_pb2.WeightAddress
    n_renewed: int = 0
    sent_bytes: int = 0
    given: "Counter[int]" = field(default_factory=Counter)
    n_connections: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layout: ModelLayout = read_layout(self.model)

    def own_bytes(self, start: int, end: int) -> int:
        """Bytes of a stage's own tensors."""
        elsewhere = tensors_elsewhere(self.layout, LayerRange(start, end))
        return sum(tensor.n_bytes for tensor in self.layout.tensors if tensor not in elsewhere)

    def offer(self, worker: WorkerProcess) -> control_pb2.OfferResponse:
        """Makes the model known there, header and all; what is held."""
        request = control_pb2.OfferRequest(
            model=control_pb2.ModelReference(path="/nowhere/model.gguf", identity=self.layout.identity),
            parts=[
                control_pb2.ModelPart(file_name=path.name, n_bytes=path.stat().st_size, n_header_bytes=n_bytes)
                for path, n_bytes in zip(self.layout.files, self.layout.header_bytes, strict=True)
            ],
        )
        here = worker.control.Offer(request)
        if not here.has_header:
            worker.control.PutHeader(self._headers())
            here = worker.control.Offer(request)
        return here

    def request(
        self, start: int, end: int, *, session_id: str = "s", epoch: int = 1, **more: object
    ) -> control_pb2.LoadRequest:
        """A load of layers [start, end) that this coordinator gives the weights for."""
        stage = stage_spec(self.model, start, end)
        stage.model.path = "/nowhere/model.gguf"
        request = load_request(stage, session_id=session_id, epoch=epoch, **more)  # type: ignore[arg-type]
        request.sources.coordinator_gives = True
        return request

    def load(self, worker: WorkerProcess, request: control_pb2.LoadRequest) -> list[control_pb2.LoadResponse]:
        """All messages of a load, given to where it is asked for."""
        return list(self.loading(worker, request))

    def loading(self, worker: WorkerProcess, request: control_pb2.LoadRequest) -> Iterator[control_pb2.LoadResponse]:
        """The same, one by one."""
        for message in worker.control.Load(request, timeout=60):
            if message.HasField("needs_coordinator"):
                self.connect(worker, request, message.needs_coordinator.n_connections)
            yield message

    def connect(self, worker: WorkerProcess, request: control_pb2.LoadRequest, n_connections: int) -> None:
        """Gives on so many connections, until it is hung up on."""
        hello = weights_pb2.WeightsHello(
            role=weights_pb2.WEIGHTS_ROLE_GIVER,
            identity=self.layout.identity,
            session_id=request.session_id,
            epoch=request.epoch,
        )
        self.n_connections += n_connections
        for _ in range(n_connections):
            thread = threading.Thread(target=self._give, args=(weights_address(worker), hello))
            self._threads.append(thread)
            thread.start()

    def join(self) -> None:
        """Waits until it was hung up on everywhere."""
        for thread in self._threads:
            thread.join(_STALL_S)
            assert not thread.is_alive(), "a worker does not hang up"
        self._threads.clear()

    def serve(self, connection: socket.socket) -> None:
        """Answers on a connection where it is welcome, until either end hangs up."""
        try:
            while True:
                self._answer(connection, receive_message(connection, weights_pb2.WeightsAsk))
        except ChannelClosedError:
            pass
        except HangUp:
            connection.shutdown(socket.SHUT_WR)
            # Closed with asks unread it would be reset, and what was given before be lost.
            while connection.recv(1 << 16):
                pass

    def _headers(self) -> Iterator[control_pb2.PutHeaderRequest]:
        identity = self.layout.identity
        for part, (path, n_bytes) in enumerate(zip(self.layout.files, self.layout.header_bytes, strict=True)):
            yield control_pb2.PutHeaderRequest(identity=identity, part=part, chunk=path.read_bytes()[:n_bytes])
            identity = ""

    def _give(self, address: tuple[str, int], hello: weights_pb2.WeightsHello) -> None:
        with (
            contextlib.suppress(OSError, ChannelError),
            socket.create_connection(address, timeout=_STALL_S) as connection,
        ):
            greet(connection, hello)
            self.serve(connection)

    def _answer(self, connection: socket.socket, ask: weights_pb2.WeightsAsk) -> None:
        about = self.layout.tensors[ask.tensor]
        if ask.WhichOneof("what") == "address":
            self.n_renewed += 1
            send_message(connection, weights_pb2.WeightsPiece(tensor=ask.tensor, address=self.address()))
            return
        with self.layout.files[about.file_index].open("rb") as file:
            if ask.WhichOneof("what") == "hash":
                digest = blake3(os.pread(file.fileno(), about.n_bytes, about.offset_bytes)).digest()
                answer = weights_pb2.WeightsPiece(tensor=ask.tensor, hash=self.spoil_hash(ask.tensor, digest))
                data = b""
            else:
                data = os.pread(file.fileno(), ask.piece.n_bytes, about.offset_bytes + ask.piece.offset)
                data = self.spoil(ask, data)
                answer = weights_pb2.WeightsPiece(tensor=ask.tensor, piece=ask.piece)
        if self.pace_bytes_per_s:
            time.sleep(len(data) / self.pace_bytes_per_s)
        with self._lock:
            self.sent_bytes += 4 + answer.ByteSize() + len(data)
            self.given[ask.tensor] += len(data)
        send_message(connection, answer)
        connection.sendall(data)


def weights_address(worker: WorkerProcess) -> tuple[str, int]:
    """Where a worker gives and takes weights."""
    port = worker.control.Describe(control_pb2.DescribeRequest()).weights_port
    return worker.address.rsplit(":", 1)[0], port


def no_source(error: error_pb2.ErrorDetail) -> str:
    """The sentence of a load that failed for want of a source."""
    assert error.code == error_pb2.ERROR_CODE_NO_SOURCE
    return error.message
