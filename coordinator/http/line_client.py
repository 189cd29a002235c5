# SPDX-License-Identifier: MIT
"""Asks a running `caravan serve` what its lines do. For `caravan top` and `caravan chat --server`, blocking; a thin
client of `GET /line`.
"""

from __future__ import annotations

import http.client
from http import HTTPStatus

from pydantic import ValidationError

from coordinator.http.schemas.line import LineStatus
from coordinator.http.schemas.status import ErrorBody
from coordinator.http.server_address import ServerAddress

_TIMEOUT_S = 5.0
"""For the connection, and for each read: the answer takes milliseconds."""

_MOST_BYTES = 16 << 20
"""An answer is some ten kilobytes for each line."""


class NoLineError(Exception):
    """There is no answer; the message says why, as the rest of a sentence that begins with the address."""


class LineClient:
    """A server's `/line`."""

    def __init__(self, address: ServerAddress) -> None:
        self.url = address.url
        self._address = address
        self._path = address.path + "/line"

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
        connection = self._address.connection(_TIMEOUT_S)
        try:
            connection.request("GET", path, headers=self._address.headers)
            response = connection.getresponse()
            return response.status, response.read(_MOST_BYTES)
        finally:
            connection.close()
