# SPDX-License-Identifier: MIT
"""The Host header check: a web page whose name was rebound to our address must not reach us.

ASGI middleware around the whole application. Such a page can only send its own domain as Host, so addresses,
this machine's own names, and the host we were told to listen on are let in, every other name is turned away.
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
    """Names under which this machine may be asked for, in lower case."""
    name = socket.gethostname().lower().rstrip(".")
    return frozenset({"localhost", name, name.partition(".")[0] + ".local"})


class HostCheck:
    """Answers 403 to requests under a foreign name, and passes all others on."""

    def __init__(self, app: ASGIApp, allowed_names: Iterable[str] = ()) -> None:
        self._app = app
        self._allowed = own_names() | {name.lower() for name in allowed_names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self.allows(Headers(scope=scope).get("host", "")):
            rejected = RejectedError(
                HTTPStatus.FORBIDDEN,
                "the Host header is not one of this machine's names: use its address or localhost",
                code="host_not_allowed",
            )
            await error_response(rejected)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def allows(self, header: str) -> bool:
        """Whether a request with this Host header may pass."""
        host = host_of(header)
        return host in self._allowed or _is_address(host)


def host_of(header: str) -> str:
    """The host of `host`, `host:port`, `[v6]` or `[v6]:port`, in lower case and bare."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower().rstrip(".") if ":" in header else header.lower().rstrip(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
