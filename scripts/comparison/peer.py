# SPDX-License-Identifier: MIT
"""A server that is compared: llama-server or ours, and what it answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

MISSING = 404
NOT_SUPPORTED = 501
"""Also for a 400 that says "not supported yet"."""
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `body` is JSON, or text where it is none."""

    status: int
    body: Any
    headers: Mapping[str, str]

    def __getitem__(self, path: str) -> Any:  # noqa: ANN401 -- JSON
        """What is at a path of names and numbers, "choices.0.text"; None if there is no such place."""
        found = self.body
        for part in path.split("."):
            if isinstance(found, list) and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, dict):
                found = found.get(part)
            else:
                return None
        return found

    @property
    def error_type(self) -> str | None:
        """Of an error in OpenAI's form."""
        kind = self["error.type"]
        return kind if isinstance(kind, str) else None


class Peer:
    """A running server.

    Attributes:
        statuses: Of what was asked since `forget`.
    """

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        self.statuses: list[int] = []
        # llama-server closes connections that are kept, and a request may meet that.
        self._client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=_TIMEOUT_S,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def forget(self) -> None:
        """A new check begins."""
        self.statuses.clear()

    def get(self, path: str, **headers: str) -> Answer:
        return self._told(self._client.get(path, headers=headers))

    def post(self, path: str, **body: Any) -> Answer:  # noqa: ANN401 -- JSON
        return self._told(self._client.post(path, json=body))

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: object = None) -> Answer:
        """With these headers alone, so that a key can be left out."""
        return self._told(httpx.request(method, self.url + path, headers=dict(headers), json=body, timeout=_TIMEOUT_S))

    def stream(self, path: str, **body: Any) -> list[dict[str, Any]]:  # noqa: ANN401 -- JSON
        """The events of a stream, without [DONE]; of one that was refused, its error alone."""
        with self._client.stream("POST", path, json=body | {"stream": True}) as response:
            if response.status_code != 200:
                response.read()
            self.statuses.append(_status_of(response))
            if response.status_code != 200:
                return [{"status": response.status_code, **_json(response)}]
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]

    def break_off(self, path: str, after_s: float, **body: Any) -> None:  # noqa: ANN401 -- JSON
        """Asks, and hangs up before the answer is there."""
        try:
            self._client.post(path, json=body, timeout=after_s)
        except httpx.TimeoutException:
            return
        raise RuntimeError(f"{path} was answered within {after_s} s: ask for more")

    def close(self) -> None:
        self._client.close()

    def _told(self, response: httpx.Response) -> Answer:
        self.statuses.append(_status_of(response))
        return Answer(response.status_code, _json(response), response.headers)


def _status_of(response: httpx.Response) -> int:
    is_not_supported = response.status_code == httpx.codes.BAD_REQUEST and "not supported yet" in response.text
    return NOT_SUPPORTED if is_not_supported else response.status_code


def _json(response: httpx.Response) -> Any:  # noqa: ANN401 -- JSON
    try:
        return response.json()
    except ValueError:
        return response.text
