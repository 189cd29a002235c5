# SPDX-License-Identifier: MIT
"""What an attacker presents, and what they get to hear."""

import contextlib
import datetime
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc

from protos.caravan.v1 import control_pb2, control_pb2_grpc, weights_pb2
from protos.certificates import Leaf
from protos.cluster import Cluster
from protos.contract import channel_options
from protos.weights import greet

_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Papers:
    """A certificate to show, if any, and the authority and name that the other end is to have."""

    asked_of: Cluster
    leaf: Leaf | None

    def call(self, address: str) -> control_pb2.DescribeResponse:
        """Asks a worker who it is. Raises grpc.RpcError."""
        authority = self.asked_of.authority
        shown = (None, None) if self.leaf is None else (self.leaf.key, self.leaf.certificate)
        credentials = grpc.ssl_channel_credentials(authority.certificate, *shown)
        options = [*channel_options(), ("grpc.ssl_target_name_override", authority.server_name)]
        with grpc.secure_channel(address, credentials, options) as channel:
            return described(channel)

    def ask_for_weights(self, host: str, port: int) -> None:
        """Greets a weights port. Raises OSError where it hangs up."""
        with self.connected(host, port) as connection:
            greet(connection, weights_pb2.WeightsHello(role=weights_pb2.WEIGHTS_ROLE_ASKER, identity="m"))

    @contextlib.contextmanager
    def connected(
        self, host: str, port: int, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> Iterator[ssl.SSLSocket]:
        """A TLS connection, as any program makes it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = version
        context.load_verify_locations(cadata=self.asked_of.authority.certificate.decode())
        context.set_alpn_protocols(["h2"])
        if self.leaf is not None:
            with tempfile.NamedTemporaryFile() as file:
                file.write(self.leaf.key + self.leaf.certificate)
                file.flush()
                context.load_cert_chain(file.name)
        with (
            socket.create_connection((host, port), _PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=self.asked_of.authority.server_name) as connection,
        ):
            yield connection


def described(channel: grpc.Channel) -> control_pb2.DescribeResponse:
    """Asks a worker who it is, over a channel of whatever kind. Raises grpc.RpcError."""
    request = control_pb2.DescribeRequest(without_telemetry=True)
    return control_pb2_grpc.ControlServiceStub(channel).Describe(request, timeout=_PATIENCE_S)


def member(cluster: Cluster) -> Papers:
    """Who may."""
    return Papers(cluster, cluster.authority.issue("good"))


def of_time(cluster: Cluster, days: float) -> Papers:
    """Whose certificate was made so many days from now."""
    now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    return Papers(cluster, cluster.authority.issue("late", now))


def without_certificate(cluster: Cluster) -> Papers:
    """Who knows which cluster it is, and shows nothing."""
    return Papers(cluster, None)


def of_another_cluster(cluster: Cluster) -> Papers:
    """Whose certificate another authority signed, that takes any server of the first."""
    return Papers(cluster, Cluster.new().authority.issue("mallory"))


def of_its_own_making(cluster: Cluster) -> Papers:
    """Whose certificate an authority signed that calls itself as the cluster's does, with a key of its own."""
    forged = Cluster.new().authority
    forged._subject = cluster.authority._subject
    forged.server_name = cluster.authority.server_name
    return Papers(cluster, forged.issue("mallory"))


REFUSED: dict[str, Callable[[Cluster], Papers]] = {
    "no certificate": without_certificate,
    "a certificate of another cluster": of_another_cluster,
    "an authority of the same name": of_its_own_making,
    "an expired certificate": lambda cluster: of_time(cluster, -3),
    "a certificate of days to come": lambda cluster: of_time(cluster, 3),
}
"""Papers for a cluster that are none."""
