# SPDX-License-Identifier: MIT
"""Certificates last a day, processes longer: both ends of a call go on with new ones, with a clock that is moved."""

import datetime
import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from coordinator.control import WorkerClient
from coordinator.errors import WorkerLostError
from protos.caravan.v1 import weights_pb2
from protos.channels import Channels
from protos.cluster import Cluster
from protos.contract import channel_options
from protos.weights import ChannelError, greet
from tests.line.processes import WorkerProcess
from tests.security import attacks
from tests.security.attacks import described

_DAYS = datetime.timedelta(days=1)


class _Clock:
    """Some days slow, until it is set right."""

    def __init__(self, days: float) -> None:
        self.late = days * _DAYS

    def __call__(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.timezone.utc) - self.late


@pytest.fixture
def clock() -> _Clock:
    """So late that what it makes has expired."""
    return _Clock(3)


async def test_a_client_that_outlives_its_certificate_connects_with_a_new_one(
    cluster: Cluster, member: WorkerProcess, clock: _Clock
) -> None:
    client = WorkerClient(member.address, Channels(cluster, clock))
    try:
        with pytest.raises(WorkerLostError, match="whose clock is wrong"):
            await client.describe()
        clock.late = 0 * _DAYS
        assert (await client.describe()).name == "attic"
    finally:
        await client.close()


def test_a_server_that_outlives_its_certificate_shows_a_new_one(cluster: Cluster, clock: _Clock) -> None:
    server = grpc.server(ThreadPoolExecutor(1), options=channel_options())
    address = f"127.0.0.1:{Channels(cluster, clock).bind(server, '127.0.0.1:0')}"
    server.start()
    try:
        for late, code in ((3, grpc.StatusCode.UNAVAILABLE), (0, grpc.StatusCode.UNIMPLEMENTED)):
            clock.late = late * _DAYS
            with pytest.raises(grpc.RpcError) as failed, Channels(cluster).channel(address, []) as channel:
                described(channel)
            assert failed.value.code() is code
    finally:
        server.stop(0).wait()


def test_a_connection_for_weights_is_made_with_a_new_one(
    cluster: Cluster, member: WorkerProcess, clock: _Clock
) -> None:
    host, port = member.address.rpartition(":")[0], attacks.member(cluster).call(member.address).weights_port
    channels = Channels(cluster, clock)

    def ask() -> None:
        hello = weights_pb2.WeightsHello(role=weights_pb2.WEIGHTS_ROLE_ASKER, identity="m")
        with channels.connected(socket.create_connection((host, port), 5)) as connection:
            greet(connection, hello)

    # As it comes: the alert, or the end of the connection before it.
    with pytest.raises(OSError, match=r"expired|EOF|reset|pipe"):
        ask()
    clock.late = 0 * _DAYS
    with pytest.raises(ChannelError, match="nothing of that model"):
        ask()
