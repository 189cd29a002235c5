# SPDX-License-Identifier: MIT
"""How this process reaches others of the mesh and is reached: with its cluster's certificates, or without any. Every
gRPC channel, gRPC port and weights connection of worker and coordinator is made here, on whatever thread.

A member presents a certificate of its own making and takes only peers whose certificate its cluster signed, in both
directions, by TLS 1.3. Without a cluster everything is plain, and stays on this machine unless somebody said
otherwise; who says so is `worker/listening.py` and the coordinator's `discovery`.
"""

import datetime
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import TypeAlias

import grpc
import grpc.aio

from protos.certificates import Leaf
from protos.cluster import Cluster

_Options: TypeAlias = Sequence[tuple[str, int | str]]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


class Channels:
    """One process's, for as long as it lives; thread-safe."""

    def __init__(self, cluster: Cluster | None, now: Callable[[], datetime.datetime] = _now) -> None:
        """`cluster`: None: plain."""
        self._cluster = cluster
        self._now = now
        self._lock = threading.Lock()
        self._leaf: Leaf | None = None
        self._contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None

    @property
    def fingerprint(self) -> str:
        """Of the cluster; empty: there is none."""
        return "" if self._cluster is None else self._cluster.fingerprint

    @property
    def is_secure(self) -> bool:
        """Whether peers are checked, and what goes over the network is encrypted."""
        return self._cluster is not None

    @property
    def mark(self) -> object:
        """Another one as soon as new channels have a newer certificate: one that was made before then can go on, and
        connect no more some time after."""
        return None if self._cluster is None else self.fresh_leaf().made_at

    def channel(self, address: str, options: _Options) -> grpc.Channel:
        """To a worker; nothing happens before a call."""
        if self._cluster is None:
            return grpc.insecure_channel(address, options=options)
        return grpc.secure_channel(address, self._channel_credentials(), options=self._named(options))

    def aio_channel(self, address: str, options: _Options) -> grpc.aio.Channel:
        """The same for an event loop."""
        if self._cluster is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, self._channel_credentials(), options=self._named(options))

    def bind(self, server: "grpc.Server | grpc.aio.Server", address: str) -> int:
        """Has a server listen there; the port that it got. Raises RuntimeError where it cannot."""
        if self._cluster is None:
            return server.add_insecure_port(address)
        credentials = grpc.dynamic_ssl_server_credentials(
            self._server_configuration(), self._server_configuration, require_client_authentication=True
        )
        return server.add_secure_port(address, credentials)

    def connected(self, connection: socket.socket) -> socket.socket:
        """What to speak over instead of a connection that this end made, which it takes over. Blocks for as long as the
        connection's timeout says.

        Raises:
            OSError: the other end is no member (ssl.SSLError), or went away. What is wrong with our own certificate
                shows when something is read.
        """
        if self._cluster is None:
            return connection
        return self._wrapping()[0].wrap_socket(connection, server_hostname=self._cluster.authority.server_name)

    def accepted(self, connection: socket.socket) -> socket.socket:
        """What to speak over instead of a connection that another end made, which it takes over; nothing is sent or
        awaited before `greet_tls`."""
        if self._cluster is None:
            return connection
        return self._wrapping()[1].wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def fresh_leaf(self) -> Leaf:
        """This process's certificate, which has at least half of its time before it. Only of a member."""
        assert self._cluster is not None, "who has no cluster has no certificate"
        with self._lock:
            return self._fresh_leaf(self._cluster)

    def _fresh_leaf(self, cluster: Cluster) -> Leaf:
        if self._leaf is None or not self._leaf.is_fresh(self._now()):
            self._leaf = cluster.authority.issue(socket.gethostname(), self._now())
            self._contexts = None
        return self._leaf

    def _named(self, options: _Options) -> _Options:
        assert self._cluster is not None, "only members ask for a name"
        return [*options, ("grpc.ssl_target_name_override", self._cluster.authority.server_name)]

    def _channel_credentials(self) -> grpc.ChannelCredentials:
        assert self._cluster is not None, "only members have credentials"
        leaf = self.fresh_leaf()
        return grpc.ssl_channel_credentials(self._cluster.authority.certificate, leaf.key, leaf.certificate)

    def _server_configuration(self) -> grpc.ServerCertificateConfiguration:
        """Asked by gRPC at every handshake, so that certificates are renewed while it listens."""
        assert self._cluster is not None, "only members have credentials"
        leaf = self.fresh_leaf()
        return grpc.ssl_server_certificate_configuration(
            [(leaf.key, leaf.certificate)], root_certificates=self._cluster.authority.certificate
        )

    def _wrapping(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """For connections of our own, and for those of others."""
        assert self._cluster is not None, "only members wrap connections"
        with self._lock:
            leaf = self._fresh_leaf(self._cluster)
            if self._contexts is None:
                roots = self._cluster.authority.certificate
                client = _context(ssl.PROTOCOL_TLS_CLIENT, leaf, roots)
                server = _context(ssl.PROTOCOL_TLS_SERVER, leaf, roots)
                # Nobody comes back by a ticket: a handshake is cheap, and always checks.
                server.num_tickets = 0
                self._contexts = client, server
            return self._contexts


PLAIN = Channels(None)


def greet_tls(connection: socket.socket) -> None:
    """The handshake of an `accepted` connection, within its timeout; nothing where it is plain.

    Raises:
        OSError: the other end is no member, or went away.
    """
    if isinstance(connection, ssl.SSLSocket):
        connection.do_handshake()


def hang_up(connection: socket.socket) -> None:
    """Ends whatever waits at a connection, on whichever thread; it stays that thread's to close. Raises OSError."""
    # Not `connection.shutdown`: that of a TLS connection takes its state away under the thread that reads.
    socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _context(protocol: int, leaf: Leaf, roots: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=roots.decode())
    # Python takes these from a file alone; the folder is ours alone, and gone at once.
    with tempfile.TemporaryDirectory(prefix="caravan-") as folder:
        path = os.path.join(folder, "leaf.pem")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(leaf.key + leaf.certificate)
        context.load_cert_chain(path)
    return context
