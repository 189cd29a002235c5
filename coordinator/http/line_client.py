# SPDX-License-Identifier: MIT
"""Asks a running `caravan serve` what its lines do. For `caravan top`, blocking; a thin client of `GET /line`."""

from __future__ import annotations

import http.client
import urllib.parse
from http import HTTPStatus

from pydantic import ValidationError

from coordinator.http.schemas.line import LineStatus
from coordinator.http.schemas.status import ErrorBody

_TIMEOUT_S = 5.0
"""For the connection, and for each read: the answer takes milliseconds."""

_MOST_BYTES = 16 << 20
"""An answer is some ten kilobytes for each line."""


class NoLineError(Exception):
    """There is no answer; the message says why, as the rest of a sentence that begins with the address."""


class LineClient:
    """A server's `/line`.

    Args:
        url: `http://HOST:PORT` or https, with a path if the server lies behind one (a last `/v1` is left out).
        key: An API key, where one is wanted.

    Raises:
        ValueError: It is no such address.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{url!r} is not an address such as http://127.0.0.1:8080")
        self.url = url
        self._headers = {"Accept": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
        self._is_secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/").removesuffix("/v1") + "/line"

    def ask(self, window_s: float) -> LineStatus:
        """What the lines do, by the last so many seconds.

        Raises:
            NoLineError: Nobody answers, it has nothing to tell now, or it is another kind of server.
        """
        try:
            status, body = self._get(f"{self._path}?window_s={window_s:g}")
        except (OSError, http.client.HTTPException) as error:
            raise NoLineError(f"cannot be reached ({error}): is caravan serve running there?") from None
        try:
            if status == HTTPStatus.OK:
                return LineStatus.model_validate_json(body)
            raise NoLineError(f"says: {ErrorBody.model_validate_json(body).error.message}")
        except ValidationError:
            raise NoLineError(f"answers {status} with something else than a line: is it a caravan serve?") from None

    def _get(self, path: str) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", path, headers=self._headers)
            response = connection.getresponse()
            return response.status, response.read(_MOST_BYTES)
        finally:
            connection.close()
