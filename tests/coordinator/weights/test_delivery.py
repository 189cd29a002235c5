# SPDX-License-Identifier: MIT
"""Offers, loads and what they are told, against a worker as the contract has it."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from blake3 import blake3

from coordinator.control import WorkerClient
from coordinator.errors import SourceError, WeightsError
from coordinator.orders import Peer, StageOrder
from coordinator.weights.delivery import Delivery, tensors_of
from coordinator.weights.local import LocalSource
from coordinator.weights.offering import offer_all
from coordinator.weights.progress import LoadReport
from coordinator.workers import BuildVersions, FoundWorker, StageMemory, WorkerDevice
from native import ContextParams, LayerRange
from protos.caravan.v1 import error_pb2
from protos.channels import PLAIN
from protos.weights import held_bits
from tests.coordinator.weights.contract_worker import ContractWorker, contract_worker
from tests.coordinator.weights.reading import true_tensor
from tests.models import split_model


@pytest.fixture
def source(model: Path) -> LocalSource:
    """A file of this machine."""
    return LocalSource.open("tiny", model)


@pytest_asyncio.fixture
async def worker(source: LocalSource) -> AsyncIterator[ContractWorker]:
    async with contract_worker("attic", source.layout) as worker:
        yield worker


def _found(name: str, address: str, weights_port: int, held: bytes = b"") -> FoundWorker:
    versions, device = BuildVersions("", "", "", ""), WorkerDevice("CPU", "", "", "cpu", 0, 0, 0)
    return FoundWorker(name, name, address, "", "1", versions, device, weights_port=weights_port, held_tensors=held)


async def _load(
    delivery: Delivery,
    worker: ContractWorker,
    others: list[FoundWorker] | None = None,
    on_report: Callable[[LoadReport], None] = lambda _: None,
) -> StageMemory:
    """As a line does it."""
    found = _found(worker.name, worker.address, worker.port.number)
    client = WorkerClient(worker.address, PLAIN, worker.name)
    layout = delivery.source.layout
    layers = LayerRange(0, layout.n_layer)
    order = StageOrder(delivery.source.told_path, layout.identity, layers, ContextParams())
    try:
        async with delivery.to(found, "s", 2) as weights:
            sources = delivery.sources(found, layers, others or [])
            load = client.load("s", 2, order, None, None, sources, on_report=on_report, on_needed=weights.give)
            return await weights.during(load)
    finally:
        await client.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("caravan-give")]


async def test_a_worker_without_the_header_gets_it_and_says_what_it_holds(
    source: LocalSource, worker: ContractWorker, model_bytes: bytes
) -> None:
    worker.held = {1, 9}
    found, silent = _found("attic", worker.address, worker.port.number), _found("old", "127.0.0.1:9", 0)
    client = WorkerClient(worker.address, PLAIN, "attic")
    offered = await offer_all(source, [found, silent], {"attic": client, "old": client})
    attic, old = offered.workers
    assert attic.held_tensors == held_bits([number in (1, 9) for number in range(len(source.layout.tensors))])
    assert old is silent
    (offer,) = worker.offers
    (part,) = offer.parts
    assert (offer.model.path, offer.model.identity) == (str(source.layout.path), source.layout.identity)
    assert (part.file_name, part.n_bytes, part.stamp) == ("tiny-Q8_0.gguf", len(model_bytes), source.parts[0].stamp)
    assert worker.header == {0: model_bytes[: part.n_header_bytes]}
    worker.header.clear()
    worker.has_header = True
    await offer_all(source, [found], {"attic": client})
    assert not worker.header
    await client.close()


async def test_headers_of_all_parts_are_put(tmp_path: Path, model: Path) -> None:
    paths = split_model(model, tmp_path / "big")
    source = LocalSource.open("big", paths[0])
    async with contract_worker("attic", source.layout) as worker:
        client = WorkerClient(worker.address, PLAIN, "attic")
        await offer_all(source, [_found("attic", worker.address, worker.port.number)], {"attic": client})
        await client.close()
    sizes = enumerate(source.layout.header_bytes)
    assert worker.header == {number: paths[number].read_bytes()[:n_bytes] for number, n_bytes in sizes}


async def test_who_has_no_room_for_the_header_is_left_out_with_the_reason(
    source: LocalSource, worker: ContractWorker
) -> None:
    worker.put_error = error_pb2.ErrorDetail(code=error_pb2.ERROR_CODE_DISK_FULL, message="the disk is full")
    client = WorkerClient(worker.address, PLAIN, "attic")
    offered = await offer_all(source, [_found("attic", worker.address, worker.port.number)], {"attic": client})
    await client.close()
    assert offered.workers == ()
    (left_out,) = offered.left_out
    assert (left_out.name, left_out.reason) == ("attic", "attic: the disk is full")
    assert isinstance(left_out.error, WeightsError)


async def test_a_load_gets_every_tensor_that_it_asks_for(
    source: LocalSource, worker: ContractWorker, model_bytes: bytes
) -> None:
    reports: list[LoadReport] = []
    memory = await _load(Delivery(source, 12345, PLAIN), worker, on_report=reports.append)
    assert memory.weights_bytes == source.layout.n_bytes == reports[-1].fetched_bytes == reports[0].to_fetch_bytes
    for number, tensor in enumerate(source.layout.tensors):
        true = true_tensor(source, tensor.name, model_bytes)
        assert worker.fetched[number] == (true, blake3(true).digest())
    (load,) = worker.loads
    assert (load.sources.coordinator_gives, load.sources.max_bytes_per_s) == (True, 12345)


async def test_a_load_is_told_of_peers_that_hold_what_it_needs(source: LocalSource, worker: ContractWorker) -> None:
    n_tensors = len(source.layout.tensors)
    (number,) = [n for n, tensor in enumerate(source.layout.tensors) if tensor.name == "blk.3.ffn_up.weight"]
    has_one = held_bits([n == number for n in range(n_tensors)])
    others = [
        _found("attic", worker.address, worker.port.number, has_one),
        _found("cellar", "10.0.0.7:5000", 5001, has_one),
        _found("v6", "[fe80::1]:5000", 5001, has_one),
        _found("empty", "10.0.0.8:5000", 5001, held_bits([False] * n_tensors)),
        _found("closed", "10.0.0.9:5000", 0, has_one),
    ]
    delivery = Delivery(source, None, PLAIN)
    peers = (Peer("cellar", "10.0.0.7:5001", has_one), Peer("v6", "[fe80::1]:5001", has_one))
    assert delivery.sources(others[0], LayerRange(2, 4), others).peers == peers
    assert delivery.sources(others[0], LayerRange(0, 3), others).peers == ()
    assert delivery.sources(others[4], LayerRange(0, 3), others).coordinator_gives is False
    worker.held = set(range(n_tensors))
    await _load(delivery, worker, others)
    told = worker.loads[0].sources.peers[0]
    assert (told.worker, told.address, told.held_tensors) == ("cellar", "10.0.0.7:5001", has_one)


def test_a_stage_needs_its_layers_and_what_belongs_to_none(source: LocalSource) -> None:
    names = {source.layout.tensors[number].name for number in tensors_of(source.layout, LayerRange(1, 2))}
    assert {"token_embd.weight", "output.weight", "blk.1.ffn_up.weight"} <= names
    assert not any(name.startswith(("blk.0.", "blk.2.", "blk.3.")) for name in names)


async def test_why_the_source_fails_is_why_the_load_fails(tmp_path: Path, model: Path) -> None:
    path = Path(shutil.copy(model, tmp_path / "mine.gguf"))
    source = LocalSource.open("mine", path)
    async with contract_worker("attic", source.layout) as worker:
        worker.during = lambda: path.write_bytes(b"GGUF")
        worker.failure = error_pb2.ErrorDetail(code=error_pb2.ERROR_CODE_NO_SOURCE, message="nobody gives it")
        with pytest.raises(SourceError, match=r"attic: .*mine\.gguf changed after it was opened"):
            await _load(Delivery(source, None, PLAIN), worker)
        assert [error.code for error in worker.errors] == [error_pb2.ERROR_CODE_NO_SOURCE]


async def test_a_weights_port_that_cannot_be_reached_ends_the_load(source: LocalSource, worker: ContractWorker) -> None:
    waiting = threading.Event()
    port = worker.port
    worker.port = type("Deaf", (), {"number": 1, "accept": lambda *_: waiting.wait(5), "close": port.close})()
    worker.n_connections = 1
    with pytest.raises(
        WeightsError, match=r"weights cannot be given to attic: port 1 of 127\.0\.0\.1 cannot be reached"
    ):
        await _load(Delivery(source, None, PLAIN), worker)
    waiting.set()
    port.close()


async def test_a_load_that_is_called_off_leaves_nothing_behind(source: LocalSource, worker: ContractWorker) -> None:
    begun = asyncio.Event()
    stay = threading.Event()
    worker.during = lambda: stay.wait(5)

    def note(report: LoadReport) -> None:
        if report.fetched_bytes:
            begun.set()

    loading = asyncio.ensure_future(_load(Delivery(source, None, PLAIN), worker, on_report=note))
    await begun.wait()
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    stay.set()
    await worker.until_cancelled()
