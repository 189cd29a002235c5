# SPDX-License-Identifier: MIT
"""The web page at `/`: a few files of this package, read once, and the headers they go out with.

ASGI middleware between the host check and the key check: the files hold nothing of anybody's, so they need no key; what
they ask for then does. Runs on the server's event loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib import resources

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_FOLDER = "page"
_INDEX = "index.html"

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Where browsers know it, text that is taken for HTML is an error, whatever wrote it.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept by browsers, but never used unasked: with another version of Caravan the files are others, all at once.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file as it goes out; `tag` is the ETag, a hash of its bytes."""

    body: bytes
    media_type: str
    tag: str


def read_page() -> dict[str, PageFile]:
    """Every file of the page by the path that it is asked for with."""
    folder = resources.files(__package__) / _FOLDER
    found = {}
    for entry in folder.iterdir():
        ending = entry.name[entry.name.rfind(".") :]
        if ending in _MEDIA_TYPES:
            body = entry.read_bytes()
            path = "/" if entry.name == _INDEX else f"/{_FOLDER}/{entry.name}"
            found[path] = PageFile(body, _MEDIA_TYPES[ending], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found


class PageFiles:
    """Answers GET and HEAD for the page's files; passes all else on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._files = read_page()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        file = self._files.get(scope["path"]) if scope["type"] == "http" else None
        if file is None or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        headers = {**_HEADERS, "ETag": file.tag}
        if _has_it(Headers(scope=scope).get("if-none-match", ""), file.tag):
            response = Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        else:
            response = Response(file.body, headers=headers, media_type=file.media_type)
        await response(scope, receive, send)


def _has_it(header: str, tag: str) -> bool:
    """Whether a browser's copy is this one. Source: RFC 9110, 13.1.2 (weak comparison)."""
    return header.strip() == "*" or tag in (each.strip().removeprefix("W/") for each in header.split(","))
