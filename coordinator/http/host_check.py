# SPDX-License-Identifier: MIT
"""The Host header check: a web page whose name was rebound to our address must not reach us.

ASGI middleware around the whole application. Such a page can only send its own domain as Host, so addresses and names
that we were told are let in, every other name is turned away. Beyond this machine its own names are let in too.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.http.errors import error_response
from coordinator.http.rejection import RejectedError


def own_names() -> frozenset[str]:
    """Names under which others may ask for this machine, in lower case."""
    name = socket.gethostname().lower().rstrip(".")
    return frozenset({name, name.partition(".")[0] + ".local"})


class HostCheck:
    """Answers 403 to requests under a foreign name, and passes all others on."""

    def __init__(self, app: ASGIApp, allowed_names: Iterable[str] = (), *, is_local: bool = False) -> None:
        """`is_local`: nobody beyond this machine can ask, so that they do is a trick."""
        self._app = app
        self._is_local = is_local
        self._allowed = {"localhost", *(name.lower().rstrip(".") for name in allowed_names)}
        if not is_local:
            self._allowed |= own_names()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self.allows(Headers(scope=scope).get("host", "")):
            rejected = RejectedError(
                HTTPStatus.FORBIDDEN,
                "the Host header is not one of this server's names: use its address or localhost, or start it with "
                "--allowed-host",
                code="host_not_allowed",
            )
            await error_response(rejected)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def allows(self, header: str) -> bool:
        """Whether a request with this Host header may pass."""
        host = host_of(header)
        return host in self._allowed or _is_address(host, is_local=self._is_local)


def host_of(header: str) -> str:
    """The host of `host`, `host:port`, `[v6]` or `[v6]:port`, in lower case and bare."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower().rstrip(".") if ":" in header else header.lower().rstrip(".")


def _is_address(host: str, *, is_local: bool) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or not is_local
