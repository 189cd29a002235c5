# SPDX-License-Identifier: MIT
"""A fetch that reads the model's own server: what comes is what should, and when the server is no good, or is not
reached, the coordinator gives.
"""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from protos.caravan.v1 import weights_pb2
from tests.coordinator.weights.stand_in import Asked, FileServer, serving
from tests.models import write_model
from tests.ports import nobodys_address
from tests.worker.weights.coordinator import Coordinator
from tests.worker.weights.one_fetch import Fetching
from worker.weights import model_server
from worker.weights.address import Address
from worker.weights.internet import ForbiddenAddressError, Internet
from worker.weights.sources import COORDINATOR, INTERNET, Origin, Source

_PATH = "/model.gguf"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.gguf", "llama", n_layer=4)


@pytest.fixture
def server(model: Path) -> Iterator[FileServer]:
    place = FileServer(files={_PATH: model.read_bytes()})
    with serving(place):
        yield place


class Reading(Fetching):
    """Fetches that know where the model's server is."""

    server: FileServer
    internet = Internet(may_read_itself=True)
    # What the coordinator says, if not how it is.
    told: weights_pb2.WeightAddress | None = None

    def address(self, query: str = "") -> weights_pb2.WeightAddress:
        """As a coordinator tells it."""
        if self.told is not None:
            return self.told
        tag = self.server.etag(_PATH)
        url = self.server.url + _PATH + query
        return weights_pb2.WeightAddress(url=url, n_bytes=len(self.content), tag=tag)

    def read(self, query: str = "", **more: object) -> None:
        """Fetches everything, and compares it with what it should be."""
        self.bring(addresses=[Address.parse(self.address(query))], internet=self.internet, **more)


@pytest.fixture
def reading(model: Path, tmp_path: Path, server: FileServer) -> Iterator[Reading]:
    reading = Reading(model, tmp_path / "models")
    reading.server = server
    reading.coordinator.address = reading.address
    with reading:
        yield reading


def test_all_comes_from_the_server_and_nobody_else_is_asked_for_what_has_no_hash(reading: Reading) -> None:
    reading.peers = {"a": reading.give()}
    reading.read()
    assert reading.from_source(INTERNET) == reading.layout.n_bytes == reading.server.n_body_bytes
    assert reading.n_called == 0
    reading.read()
    assert reading.progress.by_source == ((Source(Origin.STORE), reading.layout.n_bytes),)


def test_peers_give_what_the_coordinator_told_the_hash_of(reading: Reading) -> None:
    reading.peers = {"a": reading.give()}
    tensor = reading.layout.tensors[3]
    digest = blake3(reading.content[tensor.offset_bytes :][: tensor.n_bytes]).digest()
    reading.read(hashes={3: digest})
    assert reading.from_source(Source(Origin.PEER, "a")) == tensor.n_bytes
    assert reading.from_source(INTERNET) == reading.layout.n_bytes - tensor.n_bytes
    assert reading.n_called == 0


def test_a_server_that_is_not_needed_is_not_asked_and_not_missed(
    reading: Reading, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model_server, "_REACH_S", 0.0)
    slowly = Coordinator(reading.layout.path, pace_bytes_per_s=reading.layout.n_bytes)
    reading.peers = {"a": slowly.serve}
    tensors = enumerate(reading.layout.tensors)
    reading.read(hashes={n: blake3(reading.content[t.offset_bytes :][: t.n_bytes]).digest() for n, t in tensors})
    assert reading.from_source(Source(Origin.PEER, "a")) == reading.layout.n_bytes
    assert not reading.server.asked
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_bytes_that_are_not_what_their_hash_says_come_from_the_coordinator(reading: Reading) -> None:
    tensor, true = reading.layout.tensors[3], reading.content
    spoilt = bytearray(true)
    spoilt[tensor.offset_bytes] ^= 1
    reading.server.files[_PATH] = bytes(spoilt)
    digest = blake3(true[tensor.offset_bytes :][: tensor.n_bytes]).digest()
    reading.read(hashes={3: digest})
    assert reading.from_source(COORDINATOR) == tensor.n_bytes == reading.coordinator.given[3]


@pytest.mark.parametrize("fault", ["cut", 503])
def test_what_breaks_off_goes_on_from_there(reading: Reading, fault: int | str) -> None:
    reading.server.faults = [0, 0, 0, fault, 0, fault]
    reading.read()
    assert reading.from_source(INTERNET) == reading.layout.n_bytes == reading.server.n_body_bytes
    assert reading.n_called == 0


def test_an_address_that_expired_is_asked_of_the_coordinator(reading: Reading) -> None:
    n_asked = 0

    def expire(_: Asked) -> int | None:
        nonlocal n_asked
        n_asked += 1
        return 403 if n_asked == 5 else None

    reading.server.answers = expire
    reading.read("?signed=1")
    assert reading.from_source(INTERNET) == reading.layout.n_bytes
    assert reading.coordinator.n_renewed == 1
    assert not reading.coordinator.given


@pytest.mark.parametrize("trouble", ["refused", "changed", "without ranges", "redirecting"])
def test_a_server_that_is_no_good_is_left_to_the_coordinator(
    reading: Reading, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    place = reading.server
    if trouble == "refused":
        place.answers = lambda _: 403
    elif trouble == "changed":
        place.etags[_PATH] = '"another"'
        # As the coordinator saw it.
        reading.told = reading.address()
        place.etags[_PATH] = '"newer"'
    elif trouble == "without ranges":
        place.has_ranges = False
    else:
        place.answers, place.headers = lambda _: 302, {"Location": _PATH}
    reading.read()
    assert reading.from_source(COORDINATOR) == reading.layout.n_bytes
    (told,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "model.gguf on 127.0.0.1" in told.message
    assert "what is missing comes from the coordinator" in told.message


def test_who_has_no_way_to_the_server_says_so_once_and_does_not_look_again(
    reading: Reading, caplog: pytest.LogCaptureFixture
) -> None:
    reading.internet = Internet(may_read_itself=True)
    with nobodys_address() as address:
        reading.server.url = f"http://{address}"
        began = time.monotonic()
        reading.read()
        assert time.monotonic() - began < 10
    assert reading.from_source(COORDINATOR) == reading.layout.n_bytes
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    assert not reading.internet.may_try([Address.parse(reading.address())])


def test_a_fetch_that_broke_off_goes_on_where_the_server_came_to(reading: Reading) -> None:
    largest = max(reading.numbers, key=lambda number: reading.layout.tensors[number].n_bytes)
    n_half = reading.layout.tensors[largest].n_bytes // 2
    for stamp, n_kept in ((Address.parse(reading.address()).stamp, n_half), (b"another.", 0)):
        store = reading.open_store()
        stored = store.find(reading.layout.identity)
        assert stored is not None
        writer = stored.begin(largest)
        assert writer is not None
        data = reading.content[reading.layout.tensors[largest].offset_bytes :][:n_half]
        with writer:
            # What somebody else gave may be a lie.
            writer.write(0, memoryview(data if n_kept else bytes(n_half)), stamp)
        reading.stop()
        reading.server.n_body_bytes = 0
        reading.read()
        assert reading.server.n_body_bytes == reading.layout.n_bytes - n_kept
        reading.folder = reading.folder.with_name("another")


def test_a_worker_that_others_reach_reads_no_server_of_its_own_machine(reading: Reading) -> None:
    reading.internet = Internet()
    reading.read()
    assert reading.from_source(COORDINATOR) == reading.layout.n_bytes
    assert not reading.server.asked


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1%eth0"])
def test_addresses_of_machines_own_services_are_not_read(address: str) -> None:
    with pytest.raises(ForbiddenAddressError, match="reads no weights"):
        Internet().check("models.example", 443, address)


@pytest.mark.parametrize("address", ["192.168.1.20", "10.0.0.3", "fd00::7", "93.184.216.34"])
def test_a_drive_in_the_house_is_read_as_the_internet_is(address: str) -> None:
    Internet().check("nas.local", 80, address)


def test_a_proxy_that_cannot_be_used_leaves_the_coordinator(
    reading: Reading, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ALL_PROXY", "ftp://proxy.example")
    reading.read()
    assert reading.from_source(COORDINATOR) == reading.layout.n_bytes
    assert "no server can be asked from here" in caplog.text


def test_the_proxy_of_this_machines_owner_may_be_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hush@localhost:3128")
    Internet().check("localhost", 3128, "127.0.0.1")
    with pytest.raises(ForbiddenAddressError):
        Internet().check("localhost", 3129, "127.0.0.1")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://host/a.gguf", "not from ftp"),
        ("file:///etc/passwd", "not from file"),
        ("http:///a.gguf", "http://"),
        ("https://me:secret@host/a.gguf", "no password"),
        ("https://host/" + "a" * 9000, "characters"),
        ("https://host/a\r\nX: b", "characters"),
    ],
)
def test_what_is_no_address_is_refused_without_telling_it(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        Address.parse(weights_pb2.WeightAddress(url=url, n_bytes=1))
    assert "secret" not in str(refusal.value)
