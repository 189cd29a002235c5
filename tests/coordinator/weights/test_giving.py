# SPDX-License-Identifier: MIT
"""Giving over real sockets: every byte and hash as asked for, an error for what cannot be given, and an end for all
that was begun.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import queue
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3

from coordinator.errors import WeightsError
from coordinator.weights import giving as giving_module
from coordinator.weights.giving import Giving, Receiver
from coordinator.weights.hashes import TensorHashes
from coordinator.weights.source import WeightSource
from protos.caravan.v1 import error_pb2, weights_pb2
from protos.channels import PLAIN
from protos.weights import PIECE_LIMIT_BYTES, ChannelClosedError, send_message
from tests.coordinator.weights.asker import Asker, Port, open_port
from tests.coordinator.weights.conftest import Finder
from tests.coordinator.weights.reading import true_tensor
from tests.coordinator.weights.stand_in import FileServer


@pytest.fixture
def port() -> Iterator[Port]:
    with open_port() as port:
        yield port


class Gave:
    """What came of a giving."""

    def __init__(self, giving: Giving, asker: Asker, lost: list[WeightsError]) -> None:
        self.giving = giving
        self.asker = asker
        self.lost = lost


@contextmanager
def giving_to(port: Port, source: WeightSource, hashes: TensorHashes | None = None) -> Iterator[Gave]:
    """One connection, welcome."""
    lost: list[WeightsError] = []
    hello = weights_pb2.WeightsHello(
        role=weights_pb2.WEIGHTS_ROLE_GIVER, identity=source.layout.identity, session_id="s", epoch=3
    )
    receiver = Receiver("attic", "127.0.0.1", port.number, PLAIN)
    giving = Giving(source, hashes or TensorHashes(source), receiver, hello, lost.append)
    try:
        giving.connect(1)
        asker = port.accept()
        assert asker.hello == hello
        yield Gave(giving, asker, lost)
    finally:
        asyncio.run(giving.close())
        assert not [thread for thread in threading.enumerate() if thread.name == "caravan-give-attic"]


@pytest.mark.parametrize("way", ["sendfile", "read", "http"])
def test_every_byte_and_hash_is_as_it_was_asked_for(
    way: str, port: Port, model: Path, find: Finder, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "not from this file")

    data = model.read_bytes()
    server.files["/a.gguf"] = data
    source = find(f"{server.url}/a.gguf" if way == "http" else model)
    if way == "read":
        monkeypatch.setattr(os, "sendfile", refuse)
    chance = random.Random(0)
    with giving_to(port, source) as gave:
        asked: list[tuple[int, int, int]] = []
        for number, tensor in enumerate(source.layout.tensors[::5]):
            number *= 5
            cuts = sorted({0, tensor.n_bytes, *(chance.randrange(tensor.n_bytes) for _ in range(3))})
            asked += [(number, start, end - start) for start, end in itertools.pairwise(cuts)]
            asked.append((number, -1, 0))
        for number, offset, n_bytes in asked:
            gave.asker.ask_hash(number) if offset < 0 else gave.asker.ask_piece(number, offset, n_bytes)
        for number, offset, n_bytes in asked:
            true = true_tensor(source, source.layout.tensors[number].name, data)
            if offset < 0:
                assert gave.asker.answer().hash == blake3(true).digest()
            else:
                assert gave.asker.piece_bytes(number, offset, n_bytes) == true[offset : offset + n_bytes]


def test_what_makes_no_sense_is_refused_and_the_connection_goes_on(port: Port, model: Path, find: Finder) -> None:
    source = find(model)
    n_bytes = source.layout.tensors[0].n_bytes
    with giving_to(port, source) as gave:
        for tensor, offset, n, says in [
            (len(source.layout.tensors), 0, 1, f"the model has {len(source.layout.tensors)}"),
            ((1 << 32) - 1, 0, 1, "there is no tensor 4294967295"),
            (0, n_bytes - 1, 2, f"bytes {n_bytes - 1} to {n_bytes + 1} are asked for of a tensor of {n_bytes}"),
            (0, (1 << 64) - 1, 1, f"of a tensor of {n_bytes}"),
            (0, 0, PIECE_LIMIT_BYTES + 1, f"a piece of {PIECE_LIMIT_BYTES + 1} bytes is asked for"),
            (0, 0, 0, "a piece of 0 bytes is asked for"),
        ]:
            gave.asker.ask_piece(tensor, offset, n)
            error = gave.asker.error()
            assert error.code == error_pb2.ERROR_CODE_INVALID_ARGUMENT
            assert says in error.message
        last = true_tensor(source, source.layout.tensors[0].name, model.read_bytes())[-1:]
        assert gave.asker.piece(0, n_bytes - 1, 1) == last
        assert gave.giving.error is None
        gave.asker.connection.sendall(b"\xff" * 64)
        with pytest.raises((ChannelClosedError, ConnectionError)):
            gave.asker.answer()


def test_a_file_that_changes_is_given_no_more(port: Port, model: Path, tmp_path: Path, find: Finder) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(model.read_bytes())
    source = find(path)
    with giving_to(port, source) as gave:
        assert len(gave.asker.hash(0)) == 32
        assert gave.asker.piece(0, 0, 16) == path.read_bytes()[source.layout.tensors[0].offset_bytes :][:16]
        with path.open("r+b") as file:
            file.seek(source.layout.tensors[0].offset_bytes)
            file.write(b"changed!")
        gave.asker.ask_piece(0, 0, 16)
        gave.asker.ask_hash(1)
        for error in (gave.asker.error(), gave.asker.error()):
            assert error.code == error_pb2.ERROR_CODE_NO_SOURCE
            assert f"{path} changed after it was opened" in error.message
        assert "changed" in str(gave.giving.error)
        # What is known of it was true of what it was.
        assert len(gave.asker.hash(0)) == 32


def test_a_server_that_fails_in_the_middle_is_an_error_of_one_piece(
    port: Port, model: Path, find: Finder, server: FileServer
) -> None:
    server.files["/a.gguf"] = model.read_bytes()
    source = find(f"{server.url}/a.gguf")
    with giving_to(port, source) as gave:
        for status, says in [(500, "/a.gguf cannot be fetched: its server answers 500"), (404, "there is no http://")]:
            server.answers = {500: lambda _: 500, 404: lambda _: 404}[status]
            gave.asker.ask_piece(0, 0, 1000)
            error = gave.asker.error()
            assert error.retry_safe is (status == 500)
            assert says in error.message
        server.answers = lambda _: None
        server.faults = ["cut"]
        first = source.layout.tensors[0].offset_bytes
        assert gave.asker.piece(0, 0, 1000) == model.read_bytes()[first : first + 1000]


def test_what_comes_from_a_server_is_fetched_once_for_its_bytes_and_its_hash(
    port: Port, model: Path, find: Finder, server: FileServer
) -> None:
    server.files["/a.gguf"] = model.read_bytes()
    source = find(f"{server.url}/a.gguf")
    tensor = source.layout.tensors[0]
    true = true_tensor(source, tensor.name, model.read_bytes())
    with giving_to(port, source) as gave:
        server.asked.clear()
        half = tensor.n_bytes // 2
        assert gave.asker.piece(0, 0, half) + gave.asker.piece(0, half, tensor.n_bytes - half) == true
        assert gave.asker.hash(0) == blake3(true).digest()
        assert [asked.bytes_from for asked in server.asked] == [tensor.offset_bytes]
        # Out of order: what its hash lacks is read again.
        other = source.layout.tensors[1]
        gave.asker.piece(1, 1, other.n_bytes - 1)
        assert gave.asker.hash(1) == blake3(true_tensor(source, other.name, model.read_bytes())).digest()


def test_an_address_that_expired_is_given_anew_and_that_of_another_file_is_not(
    port: Port, model: Path, find: Finder, server: FileServer
) -> None:
    server.files["/tiny.gguf"] = model.read_bytes()
    source = find(f"{server.url}/tiny.gguf")
    ask = weights_pb2.WeightsAsk(tensor=3, address=True)
    with giving_to(port, source) as gave:
        send_message(gave.asker.connection, ask)
        assert gave.asker.answer().address == source.addresses()[0].message()
        server.files["/tiny.gguf"] += b"more"
        send_message(gave.asker.connection, ask)
        assert "changed on its server" in gave.asker.error().message


def test_hashes_are_made_once(port: Port, model: Path, tmp_path: Path, find: Finder) -> None:
    source = find(model)
    hashes = [blake3(true_tensor(source, t.name, model.read_bytes())).digest() for t in source.layout.tensors]
    with giving_to(port, source) as gave:
        assert [gave.asker.hash(number) for number in range(4)] == hashes[:4]
    (remembered,) = (tmp_path / "cache" / "hashes").iterdir()
    # A line that was half written, and one that rotted, are none; what comes after them is.
    lines = remembered.read_text().split()
    rotten = remembered.read_text().replace(hashes[3].hex()[:8], hashes[3].hex()[:7] + "x")
    remembered.write_text(rotten + f"5 {hashes[5].hex()[:20]}")
    again = TensorHashes(source)
    assert sorted(again._known) == [0, 1, 2]
    assert len(lines) == 12
    with giving_to(port, source, again) as gave:
        assert [gave.asker.hash(number) for number in range(8)] == hashes[:8]
    assert TensorHashes(source)._known == dict(enumerate(hashes[:8]))


def test_who_is_hung_up_on_ends(port: Port, model: Path, find: Finder) -> None:
    with giving_to(port, find(model)) as gave:
        gave.asker.ask_piece(0, 0, 1000)
        gave.asker.connection.close()
        for thread in threading.enumerate():
            if thread.name == "caravan-give-attic":
                thread.join(5)
                assert not thread.is_alive()
        assert gave.lost == []


@pytest.mark.parametrize("waits_for", ["the worker", "the server"])
def test_what_is_called_off_ends_whatever_it_waits_for(
    waits_for: str, port: Port, model: Path, find: Finder, server: FileServer
) -> None:
    server.files["/a.gguf"] = model.read_bytes()
    source = find(model if waits_for == "the worker" else f"{server.url}/a.gguf")
    biggest = max(range(len(source.layout.tensors)), key=lambda number: source.layout.tensors[number].n_bytes)
    server.faults = ["stall"]
    with giving_to(port, source) as gave:
        # More than fits into the buffers between the two, and nobody reads it.
        for _ in range(200):
            gave.asker.ask_piece(biggest, 0, source.layout.tensors[biggest].n_bytes)
        time.sleep(0.2)
        began_s = time.monotonic()
        asyncio.run(gave.giving.close())
        assert time.monotonic() - began_s < 5.0  # and not for ever
    server.released.set()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_worker_that_takes_nothing_is_told_of(model: Path, find: Finder, is_there: bool) -> None:
    source = find(model)
    lost: queue.SimpleQueue[WeightsError] = queue.SimpleQueue()
    with open_port() as port:
        receiver = Receiver("attic", "127.0.0.1", port.number, PLAIN)
        if not is_there:
            port.close()
        giving = Giving(source, TensorHashes(source), receiver, weights_pb2.WeightsHello(), lost.put)
        giving.connect(2)
        if is_there:
            for _ in range(2):
                port.accept(error_pb2.ErrorDetail(message="no such load here"))
        error = lost.get(timeout=10)
        asyncio.run(giving.close())
    assert error.worker == "attic"
    expected = (
        "it turned us away: no such load here" if is_there else f"port {port.number} of 127.0.0.1 cannot be reached"
    )
    assert f"weights cannot be given to attic: {expected}" in error.message


def test_no_worker_gets_any_number_of_connections(port: Port, model: Path, find: Finder) -> None:
    source = find(model)
    giving = Giving(
        source,
        TensorHashes(source),
        Receiver("attic", "127.0.0.1", port.number, PLAIN),
        weights_pb2.WeightsHello(),
        print,
    )
    giving.connect(1 << 31)
    giving.connect(5)
    for _ in range(giving_module.MAX_CONNECTIONS):
        port.accept()
    assert threading.active_count() < giving_module.MAX_CONNECTIONS + 20
    asyncio.run(giving.close())
