# SPDX-License-Identifier: MIT
"""Whoever connects to a member's ports without being one: no call of theirs is answered, and members' still are."""

import contextlib
import socket
import ssl

import grpc
import pytest

from protos.caravan.v1 import weights_pb2
from protos.cluster import Cluster
from protos.contract import channel_options
from protos.weights import ChannelError, greet
from tests.line.processes import WorkerProcess
from tests.security import attacks
from tests.security.attacks import REFUSED, described, of_time


@pytest.fixture(scope="module")
def host(member: WorkerProcess) -> str:
    """Of the worker."""
    return member.address.rpartition(":")[0]


@pytest.fixture(scope="module")
def weights_port(member: WorkerProcess, cluster: Cluster) -> int:
    """Of the worker, as it tells its like."""
    return attacks.member(cluster).call(member.address).weights_port


@pytest.mark.parametrize("days", [-1.5, 0, 0.9])
def test_a_member_is_answered_even_if_its_clock_is_a_day_off(
    cluster: Cluster, member: WorkerProcess, days: float
) -> None:
    assert of_time(cluster, days).call(member.address).name == "attic"


@pytest.mark.parametrize("papers", REFUSED)
def test_false_papers_get_no_call_through(cluster: Cluster, member: WorkerProcess, papers: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        REFUSED[papers](cluster).call(member.address)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("papers", REFUSED)
def test_false_papers_get_no_weights(cluster: Cluster, host: str, weights_port: int, papers: str) -> None:
    with pytest.raises(OSError, match=r"alert|reset|EOF|closed|Broken pipe"):
        REFUSED[papers](cluster).ask_for_weights(host, weights_port)


def test_plain_text_gets_no_call_through(member: WorkerProcess) -> None:
    with grpc.insecure_channel(member.address, channel_options()) as channel, pytest.raises(grpc.RpcError) as refused:
        described(channel)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_plain_text_gets_no_weights(host: str, weights_port: int) -> None:
    with (
        socket.create_connection((host, weights_port), 5) as connection,
        pytest.raises((OSError, ChannelError)),
    ):
        greet(connection, weights_pb2.WeightsHello(role=weights_pb2.WEIGHTS_ROLE_ASKER, identity="m"))


@pytest.mark.parametrize("where", ["calls", "weights"])
def test_tls_1_2_is_refused_even_from_a_member(
    cluster: Cluster, member: WorkerProcess, host: str, weights_port: int, where: str
) -> None:
    port = int(member.address.rpartition(":")[2]) if where == "calls" else weights_port
    papers = attacks.member(cluster)
    with papers.connected(host, port) as connection:
        assert connection.version() == "TLSv1.3"
    with pytest.raises(OSError), papers.connected(host, port, ssl.TLSVersion.TLSv1_2):  # noqa: PT011 -- as it comes
        pass


def test_a_member_that_reaches_the_weights_port_is_told_what_is_there(
    cluster: Cluster, host: str, weights_port: int
) -> None:
    with pytest.raises(ChannelError, match="nothing of that model is on this worker"):
        attacks.member(cluster).ask_for_weights(host, weights_port)


def test_who_connects_and_says_nothing_is_in_nobody_s_way(
    cluster: Cluster, member: WorkerProcess, host: str, weights_port: int
) -> None:
    ports = (int(member.address.rpartition(":")[2]), weights_port)
    with contextlib.ExitStack() as silent:
        for _ in range(40):
            for port in ports:
                silent.enter_context(socket.create_connection((host, port), 5))
        assert attacks.member(cluster).call(member.address).name == "attic"
        with pytest.raises(ChannelError, match="nothing of that model"):
            attacks.member(cluster).ask_for_weights(host, weights_port)
