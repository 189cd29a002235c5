# SPDX-License-Identifier: MIT
"""The weights port: whoever connects is served, handed over or turned away, whatever they say, and holds up nobody."""

import queue
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protos.caravan.v1 import weights_pb2
from protos.channels import PLAIN, Channels
from protos.cluster import Cluster
from protos.weights import (
    MAGIC,
    MESSAGE_LIMIT_BYTES,
    PIECE_LIMIT_BYTES,
    ChannelClosedError,
    ChannelError,
    greet,
    receive_into,
    receive_message,
    send_message,
)
from worker.listening import Endpoint
from worker.weights.giver import Find
from worker.weights.piece import Piece
from worker.weights.port import WeightsPort

_CONTENT = bytes(range(256)) * 100
# Two tensors in the file, behind a header.
_TENSORS = ((100, 5000), (5100, 20000))


@pytest.fixture(params=["plain", "of a cluster"])
def port(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[WeightsPort]:
    """One that has two tensors of the model "held"."""
    channels = PLAIN if request.param == "plain" else Channels(Cluster.new())
    path = tmp_path / "model"
    path.write_bytes(_CONTENT)
    with path.open("rb") as file:

        def find(tensor: int) -> Piece | None:
            return Piece(file.fileno(), *_TENSORS[tensor]) if tensor < len(_TENSORS) else None

        @contextmanager
        def open_model(identity: str) -> Iterator[Find | None]:
            yield find if identity == "held" else None

        port = WeightsPort(Endpoint("127.0.0.1", 0), open_model, channels)
        yield port
        port.close()


def test_it_is_the_port_after_that_for_calls_and_another_where_that_is_taken() -> None:
    @contextmanager
    def open_nothing(_identity: str) -> Iterator[Find | None]:
        yield None

    with socket.create_server(("127.0.0.1", 0)) as somebody:
        calls = Endpoint("127.0.0.1", somebody.getsockname()[1] - 1)
        displaced = WeightsPort(calls, open_nothing, PLAIN)
        displaced.close()
    in_its_place = WeightsPort(calls, open_nothing, PLAIN)
    in_its_place.close()
    assert displaced.is_displaced
    assert displaced.port != calls.port + 1
    assert not in_its_place.is_displaced
    assert in_its_place.port == calls.port + 1


def _connect(port: WeightsPort) -> socket.socket:
    return port.channels.connected(socket.create_connection(("127.0.0.1", port.port), timeout=5))


@contextmanager
def _asking(port: WeightsPort, identity: str = "held") -> Iterator[socket.socket]:
    with _connect(port) as connection:
        greet(connection, weights_pb2.WeightsHello(role=weights_pb2.WEIGHTS_ROLE_ASKER, identity=identity))
        yield connection


def _ask(tensor: int, offset: int, n_bytes: int) -> weights_pb2.WeightsAsk:
    return weights_pb2.WeightsAsk(tensor=tensor, piece=weights_pb2.Piece(offset=offset, n_bytes=n_bytes))


def _receive_piece(connection: socket.socket) -> bytes:
    answer = receive_message(connection, weights_pb2.WeightsPiece)
    assert answer.HasField("piece"), answer
    data = bytearray(answer.piece.n_bytes)
    receive_into(connection, memoryview(data))
    return bytes(data)


@pytest.mark.parametrize("has_sendfile", [True, False])
def test_pieces_asked_ahead_come_in_order(
    has_sendfile: bool, port: WeightsPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_sendfile:
        monkeypatch.delattr("os.sendfile")
    with _asking(port) as connection:
        asked = [(1, 0, 7), (0, 4990, 10), (1, 19999, 1), (0, 0, 5000)]
        for ask in asked:
            send_message(connection, _ask(*ask))
        for tensor, offset, n_bytes in asked:
            start = _TENSORS[tensor][0] + offset
            assert _receive_piece(connection) == _CONTENT[start : start + n_bytes]


@pytest.mark.parametrize(
    "ask",
    [
        _ask(0, 0, 5001),
        _ask(0, 5000, 1),
        _ask(0, 0, 0),
        _ask(1, (1 << 64) - 1, 2),
        _ask(1, 0, PIECE_LIMIT_BYTES + 1),
        _ask(2, 0, 1),
        _ask((1 << 32) - 1, 0, 1),
        weights_pb2.WeightsAsk(tensor=0, hash=True),
        weights_pb2.WeightsAsk(tensor=0),
    ],
)
def test_what_is_no_piece_of_a_tensor_is_refused_and_the_connection_goes_on(
    ask: weights_pb2.WeightsAsk, port: WeightsPort
) -> None:
    with _asking(port) as connection:
        send_message(connection, ask)
        answer = receive_message(connection, weights_pb2.WeightsPiece)
        assert answer.error.message
        assert answer.tensor == ask.tensor
        send_message(connection, _ask(0, 0, 3))
        assert _receive_piece(connection) == _CONTENT[100:103]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        MAGIC + struct.pack("<I", MESSAGE_LIMIT_BYTES + 1),
        MAGIC + struct.pack("<I", 3) + b"\xff\xff\xff",
    ],
)
def test_who_speaks_something_else_is_hung_up_on(data: bytes, port: WeightsPort) -> None:
    with _connect(port) as connection:
        connection.sendall(data)
        with pytest.raises((ChannelClosedError, ConnectionError)):
            receive_message(connection, weights_pb2.WeightsWelcome)


def test_an_ask_of_absurd_length_ends_the_connection_and_no_other(port: WeightsPort) -> None:
    with _asking(port) as other, _asking(port) as connection:
        connection.sendall(struct.pack("<I", 1 << 31))
        with pytest.raises((ChannelClosedError, ConnectionError)):
            receive_message(connection, weights_pb2.WeightsPiece)
        send_message(other, _ask(0, 0, 1))
        assert _receive_piece(other) == _CONTENT[100:101]


def test_a_model_that_is_not_here_and_a_load_that_nobody_waits_for_are_turned_away(port: WeightsPort) -> None:
    with pytest.raises(ChannelError, match="nothing of that model"), _asking(port, "other"):
        pass
    hello = weights_pb2.WeightsHello(role=weights_pb2.WEIGHTS_ROLE_GIVER, identity="m", session_id="s", epoch=3)
    with _connect(port) as connection, pytest.raises(ChannelError, match="no load of session s, epoch 3"):
        greet(connection, hello)
    taken: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()

    def take(connection: socket.socket) -> bool:
        taken.put(connection)
        return True

    with (
        port.expect("s", 3, "another model", take),
        _connect(port) as connection,
        pytest.raises(ChannelError, match="waits for that model"),
    ):
        greet(connection, hello)
    hello.role = weights_pb2.WEIGHTS_ROLE_UNSPECIFIED
    with (
        port.expect("s", 3, "m", take),
        _connect(port) as connection,
        pytest.raises(ChannelError, match="either gives or asks"),
    ):
        greet(connection, hello)
    assert taken.empty()
    hello.role = weights_pb2.WEIGHTS_ROLE_GIVER
    with port.expect("s", 3, "m", take), _connect(port) as connection:
        greet(connection, hello)
        with taken.get(timeout=5) as ours:
            send_message(ours, _ask(0, 0, 1))
        assert receive_message(connection, weights_pb2.WeightsAsk) == _ask(0, 0, 1)


def test_strangers_that_say_nothing_do_not_keep_others_out(port: WeightsPort) -> None:
    silent = [_connect(port) for _ in range(150)]
    with _asking(port) as connection:
        send_message(connection, _ask(0, 0, 2))
        assert _receive_piece(connection) == _CONTENT[100:102]
    for each in silent:
        each.close()


def test_closing_it_hangs_up(port: WeightsPort) -> None:
    with _asking(port) as connection:
        port.close()
        with pytest.raises((ChannelClosedError, ConnectionError)):
            receive_message(connection, weights_pb2.WeightsPiece)
