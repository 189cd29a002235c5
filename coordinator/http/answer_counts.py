# SPDX-License-Identifier: MIT
"""Counts the answers of the server by route and status, for `/metrics`. ASGI middleware around all other, on the
server's event loop.
"""

from __future__ import annotations

from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OTHER = "other"
"""What did not get as far as a route: the page's files, an unknown path, a missing key."""

_FAULT = "500"
"""What an error becomes that goes on to the server's own middleware."""


class AnswerCounts:
    """Counts, and changes nothing."""

    def __init__(self, app: ASGIApp, counts: Counter[tuple[str, str]]) -> None:
        """`counts`: by route and status."""
        self._app = app
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_counted = False

        async def counting(message: Message) -> None:
            nonlocal is_counted
            if message["type"] == "http.response.start":
                is_counted = True
                self._counts[_route_of(scope), str(message["status"])] += 1
            await send(message)

        try:
            await self._app(scope, receive, counting)
        except Exception:
            if not is_counted:
                self._counts[_route_of(scope), _FAULT] += 1
            raise


def _route_of(scope: Scope) -> str:
    """A route's pattern: there are few of them, whatever clients ask for."""
    return getattr(scope.get("route"), "path", _OTHER)
