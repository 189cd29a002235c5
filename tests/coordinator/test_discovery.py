# SPDX-License-Identifier: MIT
"""Discovery's reading of mDNS records and of addresses without a worker. Real workers: tests/line/test_finding.py."""

import grpc.aio
import pytest

from coordinator.discovery import discover, records_of
from coordinator.errors import VersionMismatchError, WorkerLostError
from protos.discovery import WorkerRecord
from tests.ports import nobodys_address

_RECORD = WorkerRecord("attic", "instance-1", "10.0.0.2", 9000, "1", "build", "CPU")


def test_a_service_gives_a_record_for_each_of_its_addresses() -> None:
    properties = {key.encode(): value for key, value in _RECORD.to_properties().items()}
    records = records_of(properties, ["10.0.0.2", "192.168.1.2"], 9000)
    assert [record.address for record in records] == ["10.0.0.2:9000", "192.168.1.2:9000"]
    assert records[0] == _RECORD


@pytest.mark.parametrize(
    "properties",
    [{}, {b"name": b"attic"}, {b"name": b"\xff", b"instance": b"x"}, {b"name": None}],
)
def test_a_record_that_is_none_of_ours_is_ignored(properties: dict[bytes, bytes | None]) -> None:
    assert records_of(properties, ["10.0.0.2"], 9000) == []


async def test_an_address_where_nobody_listens_is_left_out_with_the_reason() -> None:
    with nobodys_address() as address:
        found = await discover([address], mdns=False)
    assert found.found == ()
    (left_out,) = found.left_out
    assert left_out.address == address
    assert isinstance(left_out.error, WorkerLostError)
    assert address in left_out.reason


async def test_an_address_is_asked_once_however_often_it_is_given() -> None:
    found = await discover(["127.0.0.1:1", "127.0.0.1:1"], mdns=False)
    assert len(found.left_out) == 1


async def test_a_grpc_server_that_is_no_worker_is_left_out_as_such() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        found = await discover([f"127.0.0.1:{port}"], mdns=False)
    finally:
        await server.stop(None)
    (left_out,) = found.left_out
    assert isinstance(left_out.error, VersionMismatchError)
