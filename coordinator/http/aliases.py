# SPDX-License-Identifier: MIT
"""Other names of routes, as llama-server has them: its clients leave out `/v1`. ASGI middleware around the key check,
so that a route is the same by whatever name; on the server's event loop.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

ALIASES = {
    "/chat/completions": "/v1/chat/completions",
    "/chat/completions/input_tokens": "/v1/chat/completions/input_tokens",
    "/models": "/v1/models",
    "/models/load": "/v1/models/load",
    "/models/unload": "/v1/models/unload",
    "/rerank": "/v1/rerank",
    "/reranking": "/v1/rerank",
    "/responses": "/v1/responses",
    "/v1/health": "/health",
    "/v1/reranking": "/v1/rerank",
}
"""Not among them: /completions and /embeddings, which are in other forms than those below /v1."""


class Aliases:
    """Gives a request's path its proper name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = ALIASES.get(scope["path"]) if scope["type"] == "http" else None
        if path is not None:
            scope["path"], scope["raw_path"] = path, path.encode()
        await self._app(scope, receive, send)
