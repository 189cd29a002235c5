# SPDX-License-Identifier: MIT
"""Asks any server with OpenAI's API for its models, and for answers as they are written. For `caravan chat --server`,
blocking, on the thread of its caller.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from coordinator.http.server_address import ServerAddress

_ANSWER_S = 10.0
_END_S = 2.0
"""For a connection, and for the list of models: a moment, unless nobody is there."""

_MOST_BYTES = 16 << 20
"""Of an answer that is no stream, and of one event."""

_END = "[DONE]"


class ServerError(Exception):
    """The server does not do what it was asked for; the message says why, as the rest of a sentence that begins with
    its address."""


class UnreachableError(ServerError):
    """Nobody answers there, or it hung up."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What an event of a stream brings; any of it may be empty.

    Attributes:
        thought: Reasoning, of a server that tells it apart.
        usage: The counts of tokens, as OpenAI has them; told once, at the end.
    """

    text: str = ""
    thought: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None


class ChatClient:
    """A server."""

    def __init__(self, address: ServerAddress) -> None:
        self._address = address

    def models(self) -> list[str]:
        """What it can be asked for, by name.

        Raises:
            ServerError: It does not say.
        """
        connection = self._address.connection(_ANSWER_S)
        with contextlib.closing(connection), _told(self._address):
            connection.request("GET", self._address.path + "/v1/models", headers=self._address.headers)
            response = connection.getresponse()
            body = response.read(_MOST_BYTES)
            if response.status != HTTPStatus.OK:
                raise ServerError(_refusal(response.status, body))
            return [str(each["id"]) for each in json.loads(body)["data"]]

    def stream(self, model: str, messages: Sequence[Mapping[str, str]], fields: Mapping[str, object]) -> ChatStream:
        """An answer to be written; nothing is sent before it begins."""
        asked = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        return ChatStream(self._address, json.dumps({**asked, **fields}))


class ChatStream:
    """An answer as it is written: once it has begun an iterable of `Delta`; ended by `close`."""

    def __init__(self, address: ServerAddress, body: str) -> None:
        self._address = address
        self._body = body
        self._connection = address.connection(_ANSWER_S)
        self._socket: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None
        self._kept_id: str | None = None
        self.is_cancelled = False

    def cancel(self) -> None:
        """Hangs up, so that the server writes no more; the iteration ends. May be called by a signal's handler while
        this waits, and before it began."""
        self.is_cancelled = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # The plain socket's own, also under TLS: what is read next finds an end.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def begin(self) -> None:
        """Sends the request, and waits until the server begins; or until it is cancelled.

        Raises:
            ServerError: It does not.
        """
        try:
            with _told(self._address):
                self._response = self._asked()
        except ServerError:
            if not self.is_cancelled:
                raise

    def close(self) -> None:
        """Safe to repeat. What was cancelled ends, also on a server that would go on without a client."""
        self._connection.close()
        if self._response is not None:
            self._response.close()
        kept_id, self._kept_id = self._kept_id, None
        if self.is_cancelled and kept_id is not None:
            self._end(kept_id)

    def __iter__(self) -> Iterator[Delta]:
        """Raises ServerError: it did not come to its end."""
        if self._response is None:
            return
        try:
            with _told(self._address):
                for event, is_kept in _events(self._response):
                    told = json.loads(event)
                    if is_kept:
                        self._kept_id = told.get("id")
                    yield _delta(told)
        except ServerError:
            if not self.is_cancelled:
                raise

    def _asked(self) -> http.client.HTTPResponse | None:
        address, connection = self._address, self._connection
        connection.connect()
        self._socket = connection.sock
        if self.is_cancelled:
            return None
        # A long prompt takes as long as it takes.
        connection.sock.settimeout(None)
        headers = {**address.headers, "Content-Type": "application/json"}
        connection.request("POST", address.path + "/v1/chat/completions", self._body.encode(), headers)
        response = connection.getresponse()
        if response.status != HTTPStatus.OK:
            raise ServerError(_refusal(response.status, response.read(_MOST_BYTES)))
        return response

    def _end(self, answer_id: str) -> None:
        """If that fails, it ends when the server's patience does."""
        connection = self._address.connection(_END_S)
        path = f"{self._address.path}/v1/chat/completions/{urllib.parse.quote(answer_id, safe='')}"
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("DELETE", path, headers=self._address.headers)
            connection.getresponse().read(_MOST_BYTES)


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[str, bool]]:
    """The data of each, and whether it has an id, as those of answers that are kept.

    Raises:
        UnreachableError: there was none that says that it was the last.
    """
    is_kept = False
    while line := response.readline(_MOST_BYTES):
        name, _, value = line.decode("utf-8", "replace").partition(":")
        is_kept |= name == "id"
        if name != "data":
            continue  # a comment that keeps the connection open, a name, an empty line
        if value.strip() == _END:
            return
        yield value, is_kept
    raise UnreachableError("hung up in the middle of an answer")


def _delta(told: Mapping[str, Any]) -> Delta:
    if "error" in told:
        raise ServerError(f"says: {_message(told)}")
    choice: Mapping[str, Any] = next(iter(told.get("choices") or ()), {})
    delta = choice.get("delta") or {}
    return Delta(
        text=delta.get("content") or "",
        thought=delta.get("reasoning_content") or delta.get("reasoning") or "",
        finish_reason=choice.get("finish_reason"),
        usage=told.get("usage"),
    )


@contextlib.contextmanager
def _told(address: ServerAddress) -> Iterator[None]:
    """What goes wrong with a connection, or with what came over it, as a ServerError."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"cannot be reached ({error or type(error).__name__}): does it run there?") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ServerError(f"answers with something else than OpenAI's API: is {address.url} right?") from None


def _refusal(status: int, body: bytes) -> str:
    wants_key = " (--api-key)" if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) else ""
    try:
        return f"says: {_message(json.loads(body))}{wants_key}"
    except (ValueError, LookupError, TypeError):
        return f"answers {status}{wants_key}"


def _message(told: Mapping[str, Any]) -> str:
    error = told["error"]
    return str(error["message"] if isinstance(error, dict) else error)
