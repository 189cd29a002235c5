# SPDX-License-Identifier: MIT
"""Where a server with OpenAI's API is, for what asks one over HTTP: `caravan top` and `caravan chat --server`."""

from __future__ import annotations

import http.client
import urllib.parse
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A server, and the API key to show it.

    Attributes:
        url: As it was typed.
        path: Before that of each call, where the server lies behind another one; without a last `/v1`.
    """

    url: str
    is_secure: bool
    host: str
    port: int | None
    path: str
    key: str | None = field(repr=False)

    @classmethod
    def parse(cls, url: str, key: str | None = None) -> ServerAddress:
        """From `http://HOST:PORT` or https, with a path if need be.

        Raises:
            ValueError: It is no such address.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{url!r} is not an address such as http://127.0.0.1:8080")
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(url, parts.scheme == "https", parts.hostname, parts.port, path, key)

    @property
    def headers(self) -> dict[str, str]:
        """Those of each call."""
        return {"Accept": "application/json"} | ({} if self.key is None else {"Authorization": f"Bearer {self.key}"})

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        """One that is not made yet; `timeout_s`: for that, and for each read."""
        kind = http.client.HTTPSConnection if self.is_secure else http.client.HTTPConnection
        return kind(self.host, self.port, timeout=timeout_s)
