# SPDX-License-Identifier: MIT
"""Reads what a fetch asks for from the model's server, over one connection. On a thread of its own, as an Asker.

A range for each piece, so that several connections share a tensor as they share others. What ends too early goes on
from there; an address that expired is told, and what it was to bring is asked for again.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from protos.http_ranges import KnownFile, PassingError, WrongAnswerError, check_answer, conditions, follow
from worker.weights.address import Address
from worker.weights.asker import FetchOverError, Work
from worker.weights.internet import ForbiddenAddressError, Internet
from worker.weights.sources import INTERNET
from worker.weights.steps import AskPiece

if TYPE_CHECKING:
    import httpx2

_BUFFER_BYTES = 1 << 20
# In a row without a byte; before the first byte there is one try, since the coordinator can do it, too.
_TRIES = 3
_FIRST_WAIT_S = 0.5
_MOST_WAIT_S = 10.0

_Trace = Callable[[str, dict[str, Any]], None]


class WebWork(Work, Protocol):
    """What a WebAsker needs beside what askers do."""

    def address_of(self, tensor: int) -> tuple[Address, int]:
        """Where its part is read by now, and from which byte of that on the tensor lies."""

    def expired(self, number: int, address: Address, reason: str) -> None:
        """The server refuses that address; what was asked for is not coming."""


class _ExpiredError(Exception):
    """The server refuses the address."""


class WebAsker:
    """One connection, from when it is needed until it or the fetch ends."""

    def __init__(self, number: int, work: WebWork, internet: Internet) -> None:
        self.number = number
        self.source = INTERNET
        # While this is so, its thread has nothing of the fetch in its hands.
        self.is_connecting = False
        self._work = work
        self._internet = internet
        self._hung_up = threading.Event()
        self._connection: socket.socket | None = None
        self._has_read = False
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    def run(self) -> None:
        """Blocks until there is nothing more to ask, or the server does not answer as it should."""
        reason = ""
        try:
            # A client takes a while to make, and most loads after the first need none.
            step = self._next()
            with contextlib.closing(self._client()) as client:
                while True:
                    self._fetch(client, step)
                    step = self._next()
        except FetchOverError:
            pass
        except (WrongAnswerError, ForbiddenAddressError, PassingError) as error:
            reason = "" if self._hung_up.is_set() else str(error)
        finally:
            self._work.gone(self.number, reason)

    def is_overdue(self, now: float) -> bool:
        """Never: a slow internet is what there is."""
        return False

    def hang_up(self) -> None:
        """Ends it, from another thread."""
        self._hung_up.set()
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                # Not `connection.shutdown`: that of TLS takes its state away under the thread that reads.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _client(self) -> "httpx2.Client":
        try:
            return self._internet.client()
        except (ImportError, ValueError, OSError) as error:
            # Of a proxy, or of certificates, that the environment names.
            raise WrongAnswerError(f"no server can be asked from here ({error})") from None

    def _next(self) -> AskPiece:
        step = self._work.next(self.number, may_wait=True)
        assert isinstance(step, AskPiece), "servers are asked for pieces"
        return step

    def _fetch(self, client: "httpx2.Client", step: AskPiece) -> None:
        n_done = n_failed = 0
        while n_done < step.n_bytes:
            address, start = self._work.address_of(step.tensor)
            wanted = range(start + step.offset + n_done, start + step.offset + step.n_bytes)
            try:
                with contextlib.closing(self._read(client, address, wanted)) as views:
                    for view in views:
                        self._work.piece_came(self.number, step.tensor, step.offset + n_done, view)
                        n_done += len(view)
                        n_failed, self._has_read = 0, True
            except _ExpiredError as error:
                self._work.expired(self.number, address, str(error))
                return
            except PassingError as error:
                n_failed += 1
                if n_failed >= (_TRIES if self._has_read else 1) or (error.wait_s or 0) > _MOST_WAIT_S:
                    raise
                self._hung_up.wait(_FIRST_WAIT_S * 2**n_failed if error.wait_s is None else error.wait_s)

    def _read(self, client: "httpx2.Client", address: Address, wanted: range) -> Generator[memoryview, None, None]:
        """The bytes in one buffer after the other, each good until the next is asked for."""
        n_left, filled = len(wanted), 0
        with contextlib.closing(self._answer(client, address, wanted)) as response:
            try:
                with _foreign_errors(address):
                    chunks = response.iter_raw()
                    for chunk in chunks:
                        data = memoryview(chunk)[: n_left - filled]
                        while data:
                            n_bytes = min(len(data), _BUFFER_BYTES - filled)
                            self._buffer[filled : filled + n_bytes] = data[:n_bytes]
                            data, filled = data[n_bytes:], filled + n_bytes
                            if filled in (_BUFFER_BYTES, n_left):
                                yield self._buffer[:filled]
                                n_left, filled = n_left - filled, 0
                        if n_left == 0:
                            # A connection is used again only if its answer was read to the end.
                            next(chunks, None)
                            return
                raise PassingError(f"the server of {address.shown} ended in the middle")
            except PassingError:
                if filled:
                    yield self._buffer[:filled]
                raise

    def _answer(self, client: "httpx2.Client", address: Address, wanted: range) -> "httpx2.Response":
        asked = conditions(wanted, address.tag)
        self.is_connecting = True
        try:
            if self._hung_up.is_set():
                raise FetchOverError
            with _foreign_errors(address):
                extensions = {"trace": self._watch()}
                response = follow(client, address.url, lambda _: asked, address.shown, extensions=extensions)
        finally:
            self.is_connecting = False
        try:
            if self._hung_up.is_set():
                raise FetchOverError
            _check_status(response, address)
            known = KnownFile(address.shown, address.n_bytes, address.tag)
            check_answer(response.status_code, response.headers, wanted, known)
        except BaseException:
            response.close()
            raise
        return response

    def _watch(self) -> _Trace:
        """Is told of each connection that is made, before anything is said on it."""
        host, port = "", 0

        def note(event: str, info: dict[str, Any]) -> None:
            nonlocal host, port
            if event.endswith("connect_tcp.started"):
                host, port = info["host"], info["port"]
            stream = info.get("return_value")
            if stream is None or not event.endswith(("connect_tcp.complete", "start_tls.complete")):
                return
            connection: socket.socket = stream.get_extra_info("socket")
            self._connection = connection
            try:
                if self._hung_up.is_set():
                    raise FetchOverError
                if event.endswith("connect_tcp.complete"):
                    self._internet.check(host, port, connection.getpeername()[0])
            except BaseException:
                stream.close()
                raise

        return note


@contextlib.contextmanager
def _foreign_errors(address: Address) -> Iterator[None]:
    """Those of httpx2 as ours."""
    import httpx2

    try:
        yield
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL, ValueError) as error:
        raise WrongAnswerError(f"{address.shown} leads to an address that is none: {error}") from None
    except (httpx2.TransportError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise PassingError(f"{address.shown} cannot be read ({reason})") from None


def _check_status(response: "httpx2.Response", address: Address) -> None:
    status = response.status_code
    if status == 429 or status >= 500:
        wait = response.headers.get("Retry-After", "")
        wait_s = float(wait[:9]) if wait.isascii() and wait.isdecimal() else None
        raise PassingError(f"the server of {address.shown} answers {status}", wait_s)
    if status >= 400 and status != 416:
        # Where a hub redirects to is often valid for an hour only.
        raise _ExpiredError(f"the server of {address.shown} answers {status}")
