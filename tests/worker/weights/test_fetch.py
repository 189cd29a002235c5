# SPDX-License-Identifier: MIT
"""A fetch, with a store and connections of its own: what comes is what should, whatever sources do, or nothing does."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from blake3 import blake3

from native import LoadCancelledError
from protos.caravan.v1 import weights_pb2
from protos.weights import receive_message, send_message
from tests.models import write_model
from tests.worker.weights.coordinator import HangUp
from tests.worker.weights.one_fetch import Fetching, Serve
from worker.errors import DiskFullError, NoSourceError
from worker.weights import asker
from worker.weights.sources import COORDINATOR, Origin, Source


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.gguf", "llama", n_layer=4)


@pytest.fixture
def fetching(model: Path, tmp_path: Path) -> Iterator[Fetching]:
    with Fetching(model, tmp_path / "models") as fetching:
        yield fetching


def _peer(name: str) -> Source:
    return Source(Origin.PEER, name)


def test_peers_give_what_they_hold_the_coordinator_only_hashes_and_a_second_fetch_moves_nothing(
    fetching: Fetching,
) -> None:
    fetching.peers = {"a": fetching.give(), "b": fetching.give()}
    fetching.bring()
    assert fetching.from_source(_peer("a")) > 0
    assert fetching.from_source(_peer("b")) > 0
    assert fetching.from_source(_peer("a")) + fetching.from_source(_peer("b")) == fetching.layout.n_bytes
    assert fetching.coordinator.sent_bytes < 0.1 * fetching.layout.n_bytes
    assert fetching.n_called == 1
    fetching.bring()
    assert fetching.progress.by_source == ((Source(Origin.STORE), fetching.layout.n_bytes),)
    assert fetching.progress.to_fetch_bytes == 0
    assert fetching.n_called == 1


def test_a_peer_that_lies_about_a_tensor_is_asked_for_it_no_more_and_another_gives_it(fetching: Fetching) -> None:
    n_asked = 0

    def lie(ask: weights_pb2.WeightsAsk, data: bytes) -> bytes:
        nonlocal n_asked
        n_asked += ask.tensor == 3
        return bytes(len(data)) if ask.tensor == 3 else data

    fetching.peers = {"liar": fetching.give(lie)}
    fetching.bring()
    assert n_asked == 1
    assert fetching.coordinator.given[3] == fetching.layout.tensors[3].n_bytes
    assert fetching.from_source(COORDINATOR) == fetching.layout.tensors[3].n_bytes
    assert fetching.progress.fetched_bytes == fetching.progress.to_fetch_bytes


def test_a_coordinator_that_is_wrong_once_is_asked_again_and_one_that_stays_wrong_is_named(fetching: Fetching) -> None:
    n_asked, n_lies = 0, 1

    def lie(ask: weights_pb2.WeightsAsk, data: bytes) -> bytes:
        nonlocal n_asked
        n_asked += ask.tensor == 3
        return bytes(len(data)) if ask.tensor == 3 and n_asked <= n_lies else data

    fetching.coordinator.spoil = lie
    fetching.bring()
    assert n_asked == 2
    n_asked, n_lies = 0, 100
    fetching.stop()
    fetching.folder = fetching.folder.with_name("others")
    name = fetching.layout.tensors[3].name
    with pytest.raises(NoSourceError, match=rf"nobody gives tensor {name} of .*: the coordinator gave wrong .*, twice"):
        fetching.bring()
    assert n_asked == 2


def test_a_coordinator_that_lies_about_a_hash_fails_the_load(fetching: Fetching) -> None:
    fetching.coordinator.spoil_hash = lambda tensor, hash: bytes(32) if tensor == 5 else hash
    with pytest.raises(NoSourceError, match=fetching.layout.tensors[5].name):
        fetching.bring()


def test_a_source_that_hangs_is_left_and_its_pieces_come_from_others(
    fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asker, "_PEER_STALL_S", 0.2)

    def hang(connection: socket.socket) -> None:
        receive_message(connection, weights_pb2.WeightsAsk)
        connection.recv(1 << 20)
        while connection.recv(1 << 20):
            pass

    fetching.peers = {"hangs": hang, "other": fetching.give()}
    fetching.bring()
    assert fetching.from_source(_peer("other")) == fetching.layout.n_bytes


def test_a_peer_that_trickles_is_left(fetching: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asker, "_PEER_PIECE_S", 0.3)

    def trickle(connection: socket.socket) -> None:
        ask = receive_message(connection, weights_pb2.WeightsAsk)
        send_message(connection, weights_pb2.WeightsPiece(tensor=ask.tensor, piece=ask.piece))
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)

    fetching.peers = {"slow": trickle}
    fetching.bring()
    assert fetching.from_source(COORDINATOR) == fetching.layout.n_bytes


def test_what_a_connection_brought_before_it_ended_is_not_asked_for_again(fetching: Fetching) -> None:
    # With pieces of 64 KiB a tensor takes several.
    ends = {"a": 3, "b": 5}

    def ending(name: str) -> Serve:
        def end(_ask: weights_pb2.WeightsAsk, data: bytes) -> bytes:
            ends[name] -= 1
            if ends[name] < 0:
                raise HangUp
            return data

        return fetching.give(end)

    fetching.peers = {name: ending(name) for name in ends}
    fetching.bring(max_bytes_per_s=100_000_000)
    from_peers = fetching.from_source(_peer("a")) + fetching.from_source(_peer("b"))
    assert from_peers > 0
    assert from_peers + fetching.from_source(COORDINATOR) == fetching.layout.n_bytes


def _answer_with(data: Callable[[weights_pb2.WeightsAsk], bytes]) -> Serve:
    def serve(connection: socket.socket) -> None:
        connection.sendall(data(receive_message(connection, weights_pb2.WeightsAsk)))
        while connection.recv(1 << 20):
            pass

    return serve


def _message(answer: weights_pb2.WeightsPiece) -> bytes:
    data = answer.SerializeToString()
    return len(data).to_bytes(4, "little") + data


@pytest.mark.parametrize(
    "answer",
    [
        lambda ask: b"\xff\xff\xff\x7f",
        lambda ask: b"\x03\0\0\0\xff\xff\xff",
        lambda ask: _message(weights_pb2.WeightsPiece(tensor=ask.tensor + 1, piece=ask.piece)),
        lambda ask: _message(weights_pb2.WeightsPiece(tensor=ask.tensor, hash=bytes(32))),
        lambda ask: _message(weights_pb2.WeightsPiece(tensor=ask.tensor)),
        lambda ask: _message(
            weights_pb2.WeightsPiece(tensor=ask.tensor, piece=weights_pb2.Piece(offset=1 << 63, n_bytes=1 << 31))
        ),
    ],
)
def test_a_peer_that_answers_something_else_is_left(
    answer: Callable[[weights_pb2.WeightsAsk], bytes], fetching: Fetching
) -> None:
    fetching.peers = {"odd": _answer_with(answer)}
    fetching.bring()
    assert fetching.from_source(COORDINATOR) == fetching.layout.n_bytes


def test_a_fetch_that_nobody_feeds_any_more_fails_and_says_why(fetching: Fetching) -> None:
    n_left = 20

    def end(_ask: weights_pb2.WeightsAsk, data: bytes) -> bytes:
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise HangUp
        return data

    fetching.coordinator.spoil = end
    with pytest.raises(NoSourceError, match=r"the coordinator( failed|: the other end hung up)"):
        fetching.bring()
    fetching.coordinator.spoil = lambda ask, data: data
    fetching.coordinator.given.clear()
    fetching.bring()
    # What came before it failed has not come again.
    assert 0 < fetching.coordinator.given.total() < fetching.layout.n_bytes
    assert fetching.from_source(Source(Origin.STORE)) > 0


def test_a_flipped_bit_in_the_store_is_found_and_that_tensor_alone_comes_again(fetching: Fetching) -> None:
    fetching.bring()
    tensor = fetching.layout.tensors[4]
    (stored,) = fetching.folder.glob(f"{fetching.layout.identity}/parts/*")
    with stored.open("r+b") as file:
        file.seek(tensor.offset_bytes + 100)
        byte = file.read(1)[0]
        file.seek(tensor.offset_bytes + 100)
        file.write(bytes([byte ^ 1]))
    fetching.coordinator.given.clear()
    fetching.bring()
    assert fetching.coordinator.given == {4: tensor.n_bytes}


def test_a_file_found_here_is_compared_with_hashes_and_what_is_wrong_in_it_is_fetched(
    fetching: Fetching, tmp_path: Path
) -> None:
    local, tensor = tmp_path / "local.gguf", fetching.layout.tensors[4]
    content = bytearray(fetching.content)
    content[tensor.offset_bytes + 100] ^= 1
    local.write_bytes(content)
    fetching.bring(local=local)
    assert fetching.coordinator.given.total() == fetching.coordinator.given[4] == tensor.n_bytes
    assert fetching.from_source(Source(Origin.FILE)) == fetching.layout.n_bytes - tensor.n_bytes


def test_a_model_that_is_needed_in_one_file_is_put_together_there(fetching: Fetching, tmp_path: Path) -> None:
    local, tensor = tmp_path / "local.gguf", fetching.layout.tensors[4]
    content = bytearray(fetching.content)
    local.write_bytes(content)
    assert fetching.start(local=local).path(fetching.layout.tensors) == local
    content[tensor.offset_bytes + 100] ^= 1
    local.write_bytes(content)
    path = fetching.start(local=local).path(fetching.layout.tensors)
    assert path != local
    assert path.read_bytes() == fetching.content


def test_a_limit_is_kept_by_all_sources_together(fetching: Fetching) -> None:
    fetching.peers = {"a": fetching.give(), "b": fetching.give()}
    rate = fetching.layout.n_bytes * 2
    started = time.monotonic()
    fetching.bring(max_bytes_per_s=rate)
    # But for the tenth of a second that may come at once, and the last pieces.
    assert time.monotonic() - started > 0.3


def test_what_another_process_fetches_is_waited_for(fetching: Fetching) -> None:
    stored = fetching.open_store().find(fetching.layout.identity)
    assert stored is not None
    writer = stored.begin(2)
    assert writer is not None
    fetch = fetching.start(store=fetching.open_store())
    time.sleep(0.3)
    tensor = fetching.layout.tensors[2]
    data = fetching.content[tensor.offset_bytes :][: tensor.n_bytes]
    writer.write(0, memoryview(data))
    writer.finish(blake3(data).digest())
    writer.close()
    fetching.compare(fetch)
    assert fetching.coordinator.given[2] == 0
    assert fetching.coordinator.given.total() == fetching.layout.n_bytes - tensor.n_bytes


def test_a_store_without_room_fails_the_fetch_and_goes_on_when_there_is_some(fetching: Fetching) -> None:
    fetching.limit_bytes = max(tensor.n_bytes for tensor in fetching.layout.tensors)
    with pytest.raises(DiskFullError, match="--cache-size"):
        fetching.bring()
    fetching.limit_bytes = None
    fetching.bring()


def test_a_fetch_that_is_cancelled_lets_go_at_once_and_keeps_what_came(fetching: Fetching) -> None:
    fetching.coordinator.pace_bytes_per_s = fetching.layout.n_bytes / 10
    fetch = fetching.start()
    tensors = fetching.layout.tensors
    first = min(tensors, key=lambda tensor: tensor.n_bytes)
    fetch.descriptor(first)
    last = max(tensors, key=lambda tensor: tensor.n_bytes)
    threading.Timer(0.1, fetch.cancel).start()
    started = time.monotonic()
    for tensor in (last, *tensors):
        with suppress(LoadCancelledError):
            fetch.descriptor(tensor)
    with pytest.raises(LoadCancelledError):
        fetch.descriptor(first)
    fetch.close()
    assert time.monotonic() - started < 5  # and not the ten that all of it takes
    fetching.coordinator.pace_bytes_per_s = 0
    fetching.coordinator.given.clear()
    fetching.bring()
    assert fetching.coordinator.given[tensors.index(first)] == 0
