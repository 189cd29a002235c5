# SPDX-License-Identifier: MIT
"""The key check: requests without a valid `Authorization: Bearer KEY` are answered 401 before anything of them is read.

ASGI middleware around the routes. `/health` alone is for everybody, and tells those without a key no more than how far
the service is.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.http.api_keys import Keys
from coordinator.http.errors import error_response
from coordinator.http.rejection import RejectedError

IS_KNOWN = "caravan.is_known"
"""In a request's scope: whether it has a key, or needs none."""

KEY = "caravan.key"
"""In a request's scope: the key that let it in; empty: it needed none."""

_OPEN = "/health"


class KeyCheck:
    """Answers 401, or passes on."""

    def __init__(self, app: ASGIApp, keys: Keys | None) -> None:
        """`keys`: None: nobody needs one."""
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        presented = bearer_of(Headers(scope=scope).get("authorization", ""))
        scope[IS_KNOWN] = self._keys is None or self._keys.allows(presented)
        scope[KEY] = presented if self._keys is not None else ""
        if scope[IS_KNOWN] or scope["path"] == _OPEN:
            await self._app(scope, receive, send)
            return
        what = "is not one of this server's keys" if presented else "is missing: send Authorization: Bearer KEY"
        rejected = RejectedError(HTTPStatus.UNAUTHORIZED, f"the API key {what}", code="invalid_api_key")
        await error_response(rejected)(scope, receive, send)


def bearer_of(header: str) -> str:
    """The key in an Authorization header; empty if it has none."""
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
