# SPDX-License-Identifier: MIT
"""The listening side: an address, a socket bound to it, and uvicorn on that socket.

Called by `cli.serve`, on the process's event loop. The socket is bound before anything is loaded, so that a
port in use is known at once. Signals stay the caller's.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn

from coordinator.http.access import Access
from coordinator.http.app import create_app
from coordinator.http.patience import MAX_HEAD_BYTES, PatientProtocol
from coordinator.http.service import Service

_BACKLOG = 128
"""Connections that may wait to be accepted."""
_KEEP_ALIVE_S = 75
"""How long an idle connection is kept: longer than the pools of common clients keep theirs."""
_MAX_UNSENT_BYTES = 16 * 1024
"""What the kernel takes of a stream before its client's machine has room for it: without a bound it took 4.3 MB on
loopback (with it 0.17): thousands of tokens, so that a client which reads nothing is noticed only after the answer."""
_TRUSTED_PROXIES = "FORWARDED_ALLOW_IPS"
"""Uvicorn's own variable: addresses of proxies whose X-Forwarded-For tells who their clients are."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen; `host` is a name or an address, without brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """`HOST:PORT`, `[V6]:PORT` or `:PORT` (all addresses).

        Raises:
            ValueError: it is none of these; the message says so.
        """
        host, colon, port = text.rpartition(":")
        if (
            not colon
            or not (port.isascii() and port.isdigit())
            or int(port) > 65535
            or (":" in host and host[:1] != "[")
        ):
            raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
        return cls(host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bind(address: ListenAddress) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: the port is in use, or the address is not one of this machine.
    """
    family, kind, protocol, _, target = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # connections take it from here; not everywhere there is such a thing
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _MAX_UNSENT_BYTES)
        listening.bind(target)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


class HttpServer:
    """The application on a bound socket.

    Args:
        service: what it serves.
        listening: from `bind`; closed when the server ends.
        access: who may ask.
    """

    def __init__(self, service: Service, listening: socket.socket, access: Access) -> None:
        config = uvicorn.Config(
            create_app(service, access),
            http=PatientProtocol,
            ws="none",
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            # Uvicorn believes this machine's own programs by itself; a limit per client would not hold them.
            proxy_headers=_TRUSTED_PROXIES in os.environ,
            log_config=None,
        )
        self._server = _Uvicorn(config)
        self._service = service
        self._listening = listening

    async def run(self) -> None:
        """Serves until `drain`, and until the answers that then run are finished."""
        await self._server.serve(sockets=[self._listening])

    def drain(self) -> None:
        """No new connections and requests; those that run are finished."""
        self._service.stop()
        self._server.should_exit = True


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The caller decides what a signal means."""
        yield
