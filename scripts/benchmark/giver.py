# SPDX-License-Identifier: MIT
"""Gives a model's weights as a coordinator does that knows their hashes: a process for scripts/bench_weights.

    python -m benchmark.giver MODEL [--member]

Says "ready". Then it reads lines `HOST PORT SESSION EPOCH N`, connects so often to that weights port, and answers what
is asked until it is hung up on. To `report` it answers with JSON: bytes given since the last one, and the seconds
between the first ask and the last byte.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

from blake3 import blake3

from native import read_layout
from protos.caravan.v1 import weights_pb2
from protos.channels import Channels
from protos.cluster import load_cluster
from protos.weights import ChannelError, greet, receive_message, send_message

# As a coordinator sends what it must encrypt.
_BUFFER_BYTES = 1 << 20


class Giver:
    """What it gives of, and how much it gave."""

    def __init__(self, model: Path, channels: Channels) -> None:
        self._channels = channels
        self._layout = read_layout(model)
        self._file = model.open("rb")
        self._hashes = [
            blake3(os.pread(self._file.fileno(), tensor.n_bytes, tensor.offset_bytes)).digest()
            for tensor in self._layout.tensors
        ]
        self._lock = threading.Lock()
        self._n_bytes = 0
        self._first_at = self._last_at = 0.0

    def report(self) -> dict[str, float]:
        """Since the last report."""
        with self._lock:
            told = {"n_bytes": self._n_bytes, "seconds": self._last_at - self._first_at}
            self._n_bytes, self._first_at = 0, 0.0
        return told

    def give(self, host: str, port: int, session_id: str, epoch: int) -> None:
        """One connection, to its end."""
        hello = weights_pb2.WeightsHello(
            role=weights_pb2.WEIGHTS_ROLE_GIVER, identity=self._layout.identity, session_id=session_id, epoch=epoch
        )
        with (
            contextlib.suppress(OSError, ChannelError),
            self._channels.connected(socket.create_connection((host, port))) as connection,
        ):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            greet(connection, hello)
            while True:
                self._answer(connection, receive_message(connection, weights_pb2.WeightsAsk))

    def _answer(self, connection: socket.socket, ask: weights_pb2.WeightsAsk) -> None:
        if ask.WhichOneof("what") == "hash":
            send_message(connection, weights_pb2.WeightsPiece(tensor=ask.tensor, hash=self._hashes[ask.tensor]))
            return
        with self._lock:
            self._first_at = self._first_at or time.monotonic()
        offset = self._layout.tensors[ask.tensor].offset_bytes + ask.piece.offset
        end = offset + ask.piece.n_bytes
        send_message(connection, weights_pb2.WeightsPiece(tensor=ask.tensor, piece=ask.piece))
        while offset < end and self._channels.is_secure:
            data = os.pread(self._file.fileno(), min(end - offset, _BUFFER_BYTES), offset)
            connection.sendall(data)
            offset += len(data)
        while offset < end:
            offset += os.sendfile(connection.fileno(), self._file.fileno(), offset, end - offset)
        with self._lock:
            self._n_bytes += ask.piece.n_bytes
            self._last_at = time.monotonic()


def main() -> None:
    """Until there are no more lines."""
    cluster = load_cluster() if "--member" in sys.argv else None
    giver = Giver(Path(sys.argv[1]), Channels(cluster))
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "report":
            print(json.dumps(giver.report()), flush=True)
            continue
        host, port, session_id, epoch, n_connections = line.split()
        for _ in range(int(n_connections)):
            to = (host, int(port), session_id, int(epoch))
            threading.Thread(target=giver.give, args=to, daemon=True).start()


if __name__ == "__main__":
    main()
