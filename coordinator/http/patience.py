# SPDX-License-Identifier: MIT
"""Connections that bring nothing to an end: who sends a request's head byte by byte, or goes on sending when everything
is answered, is hung up on (slow loris). A body has its own time, in `body`.

Uvicorn's own protocol with a clock; on the server's event loop.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 20.0
"""For a head, from its first byte, and for a connection's first one. Clients send it in one piece."""

MAX_HEAD_BYTES = 16 << 10
"""Of a request line with its headers; more is answered 400."""

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class PatientProtocol(H11Protocol):
    """A connection whose client must get on with it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- uvicorn's own
        super().__init__(*args, **kwargs)
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answering:
            self._stop_clock()
        elif self._clock is None:
            self._start_clock()

    @property
    def _is_answering(self) -> bool:
        """Whether a request is under way: then the application looks to its time."""
        return self.cycle is not None and not self.cycle.response_complete

    def _start_clock(self) -> None:
        self._clock = self.loop.call_later(HEAD_S, self._end)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _end(self) -> None:
        self._clock = None
        if self._is_answering or self.transport.is_closing():
            return
        self.transport.write(_TOO_SLOW)
        self.transport.close()
