# SPDX-License-Identifier: MIT
"""A file on a server, asked for in ranges, by the rules of `protos.http_ranges`. Any thread.

What a server says is bounded before it is believed: sizes, waits, redirects. Whoever may read the file is told to its
own server only, never to where that redirects.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import urlsplit

import httpx2

from coordinator.errors import CaravanError, ModelNotFoundError, SourceError
from coordinator.weights.cancellation import Cancellation
from coordinator.weights.patience import Patience, wait_asked_for
from protos.http_ranges import (
    MAX_FILE_BYTES,
    KnownFile,
    PassingError,
    WrongAnswerError,
    check_answer,
    conditions,
    content_range,
    follow,
    origin,
    tag_of,
)

_CONNECT_TIMEOUT_S = 10.0
_SILENCE_TIMEOUT_S = 20.0
"""Without a byte for so long, a connection is given up and made anew."""

_FIRST_TRIES = 3
"""When the server is asked for the first time: nobody who has no network waits long to hear it."""

_MAX_CONNECTIONS = 256

_SECRETS = ("authorization", "cookie")
"""Headers that tell a server who asks."""

Explain = Callable[[int, Mapping[str, str]], "CaravanError | None"]
"""What a status and headers mean at a particular server; None: what they mean everywhere."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a server says of a file.

    Attributes:
        n_bytes: None: it does not say.
        tag: Its ETag, or else its time of change; empty: it tells neither.
    """

    n_bytes: int | None
    tag: str
    has_ranges: bool


HttpClient: TypeAlias = httpx2.Client
HttpError: TypeAlias = httpx2.HTTPError


def http_client() -> HttpClient:
    """For any number of files and threads; to be closed."""
    return httpx2.Client(
        timeout=httpx2.Timeout(_SILENCE_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
        limits=httpx2.Limits(max_connections=_MAX_CONNECTIONS),
        headers={"User-Agent": "llama-caravan"},
    )


PASSING = (httpx2.TransportError, httpx2.InvalidURL, PassingError)
"""What may go better the next time."""


@dataclass(slots=True)
class HttpFile:
    """A file on a server. `http_stream` reads it.

    Attributes:
        url: Where to ask.
        shown: What to call it in sentences: addresses may hold what others must not read.
        headers: For that server alone.
        is_pinned: Whether the address names these very bytes for ever, so that no change needs to be looked for.
    """

    client: httpx2.Client
    url: str
    shown: str
    headers: Mapping[str, str] = field(default_factory=dict)
    is_pinned: bool = False
    explain: Explain | None = None
    facts: FileFacts | None = None
    _location: str | None = None

    def ask(self, cancellation: Cancellation) -> FileFacts:
        """What the server says of it, and whether it gives ranges; kept as `facts`.

        Raises:
            SourceError, ModelNotFoundError: It says that it will not, or nothing.
        """
        patience = Patience(self.shown, self.failed, cancellation, _FIRST_TRIES)
        while True:
            try:
                with contextlib.closing(self._request(range(1))) as response:
                    self.facts = self._facts_of(response)
                    if self.facts.has_ranges:
                        # The byte that was asked for, and that there is no other: the connection is used again.
                        list(itertools.islice(response.iter_raw(), 2))
                    return self.facts
            except PASSING as error:  # noqa: PERF203 -- it is tried a few times, not a million
                patience.bear(error)

    def whole(self, start: int, cancellation: Cancellation) -> Iterator[tuple[int, bytes]]:
        """Its bytes from `start` on to the end if the server can do that, else from 0 on: each chunk with its offset.
        Not tried again by itself."""
        try:
            response = self._request(range(start, MAX_FILE_BYTES) if start else None)
            with contextlib.closing(response), woken(response, cancellation):
                offset = 0
                if response.status_code == httpx2.codes.PARTIAL_CONTENT:
                    self._check_range(response, range(start, MAX_FILE_BYTES))
                    offset = start
                for chunk in response.iter_raw():
                    cancellation.check()
                    yield offset, chunk
                    offset += len(chunk)
        except PASSING as error:
            cancellation.check()
            raise self.failed(error) from None

    def address(self) -> str | None:
        """Where others may read it, as far as it was asked for: where its server redirected to, or itself. None where
        that takes more than the address: a token or a password, which is nobody else's."""
        where = self._location or self.url
        parts = urlsplit(where)
        is_secret = origin(where) == origin(self.url) and any(name.lower() in _SECRETS for name in self.headers)
        return None if is_secret or "@" in parts.netloc else where

    def renew(self, cancellation: Cancellation) -> None:
        """Asks its own server where it is by now: what it redirected to before may have expired.

        Raises:
            SourceError, ModelNotFoundError: It does not say, or the file is another one.
        """
        patience = Patience(self.shown, self.failed, cancellation, _FIRST_TRIES)
        while True:
            self._location = None
            try:
                with contextlib.closing(self.open(range(1))) as response:
                    list(itertools.islice(response.iter_raw(), 2))
                    return
            except PASSING as error:
                patience.bear(error)

    def open(self, wanted: range) -> httpx2.Response:
        """The answer to a request for these bytes, which begins with the first of them; to be closed."""
        response = self._request(wanted)
        try:
            self._check_range(response, wanted)
        except BaseException:
            response.close()
            raise
        return response

    def _request(self, wanted: range | None) -> httpx2.Response:
        """An answer 200 or 206, its body unread."""
        remembered = self._location
        response = self._follow(remembered or self.url, wanted)
        if remembered and 400 <= response.status_code < 500 and response.status_code not in (416, 429):
            # Where a redirect led is often valid for an hour only.
            response.close()
            self._location = None
            response = self._follow(self.url, wanted)
        if response.status_code in (httpx2.codes.OK, httpx2.codes.PARTIAL_CONTENT):
            return response
        response.close()
        raise self._refused(response)

    def _follow(self, url: str, wanted: range | None) -> httpx2.Response:
        asked = {} if wanted is None else conditions(wanted, self._known.tag)

        def headers_for(address: str) -> dict[str, str]:
            return {**asked, **self.headers} if origin(address) == origin(self.url) else asked

        try:
            response = follow(self.client, url, headers_for, self.shown)
        except WrongAnswerError as error:
            raise SourceError(str(error)) from None
        where = str(response.url)
        self._location = None if where == self.url else where
        return response

    @property
    def _known(self) -> KnownFile:
        facts = self.facts or FileFacts(None, "", has_ranges=False)
        return KnownFile(self.shown, facts.n_bytes, "" if self.is_pinned else facts.tag)

    def _facts_of(self, response: httpx2.Response) -> FileFacts:
        headers = response.headers
        tag = tag_of(headers)
        if response.status_code == httpx2.codes.PARTIAL_CONTENT:
            part = content_range(headers)
            if part is None or part.first != 0 or part.n_bytes is None:
                raise SourceError(f"the server of {self.shown} does not say how large it is: download it yourself")
            return FileFacts(self._bounded(part.n_bytes), tag, has_ranges=True)
        length = headers.get("Content-Length", "")[:20]
        n_bytes = self._bounded(int(length)) if length.isascii() and length.isdecimal() else None
        return FileFacts(n_bytes, tag, has_ranges=False)

    def _bounded(self, n_bytes: int) -> int:
        if n_bytes > MAX_FILE_BYTES:
            raise SourceError(f"the server of {self.shown} says that it has {n_bytes} bytes: that is no model")
        return n_bytes

    def _check_range(self, response: httpx2.Response, wanted: range) -> None:
        """Whether it is the beginning of what was asked for, of the same file."""
        try:
            check_answer(response.status_code, response.headers, wanted, self._known)
        except WrongAnswerError as error:
            raise SourceError(str(error)) from None

    def _refused(self, response: httpx2.Response) -> Exception:
        status, headers = response.status_code, response.headers
        if status == httpx2.codes.TOO_MANY_REQUESTS or status >= 500:
            return PassingError(f"its server answers {status}", wait_asked_for(headers.get("Retry-After", "")))
        explained = self.explain(status, headers) if self.explain else None
        if explained is not None:
            return explained
        if status in (httpx2.codes.NOT_FOUND, httpx2.codes.GONE):
            return ModelNotFoundError(f"there is no {self.shown} (its server answers {status}): check the address")
        if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
            return SourceError(
                f"the server of {self.shown} does not let us read it ({status}): check that the address is whole and "
                "not too old, or download the file yourself and give its path"
            )
        return SourceError(f"the server of {self.shown} answers {status}: check the address")

    def failed(self, error: Exception) -> SourceError:
        """What to raise where it was tried often enough."""
        reason = str(error) or type(error).__name__
        if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
            return SourceError(f"{self.shown} leads to an address that is none: {reason}")
        return SourceError(
            f"{self.shown} cannot be fetched: {reason}; check the network, and try again", retry_safe=True
        )


@contextlib.contextmanager
def woken(response: httpx2.Response, cancellation: Cancellation) -> Iterator[None]:
    """While this lasts, a cancellation ends what waits for more of the response."""
    stream = response.extensions.get("network_stream")
    connection = stream.get_extra_info("socket") if stream is not None else None
    with cancellation.wakes(connection) if connection is not None else contextlib.nullcontext():
        yield
