# SPDX-License-Identifier: MIT
"""A file on a server, read in ranges: what is asked, where redirects may lead, and whether what is answered is what was
asked for. Used by coordinators for what they read and pass on, and by workers for what they read themselves; the only
place but coordinator/weights that knows httpx2. Any thread. Source of the rules: RFC 9110, section 14.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import httpx2

# A hub redirects to where a repository moved, then to its store; nobody needs more.
MAX_REDIRECTS = 5
# 16 TiB, the largest file that ext4 holds, and ten times the largest model.
MAX_FILE_BYTES = 1 << 44

_PARTIAL_CONTENT = 206
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


class WrongAnswerError(Exception):
    """The server's answer cannot be used, and will not get better: a sentence that says why."""


class PassingError(Exception):
    """What may go better the next time; `wait_s` if the server said when."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What is known of a file: what to call it in sentences, its size (None: not told) and what its server tags it with
    (its ETag, or else its time of change; empty: not to be compared)."""

    shown: str
    n_bytes: int | None
    tag: str


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Which bytes an answer holds, the last one included, and of how many; None: it does not say."""

    first: int
    last: int
    n_bytes: int | None


def follow(
    client: httpx2.Client,
    url: str,
    headers_for: Callable[[str], Mapping[str, str]],
    shown: str,
    *,
    extensions: dict[str, Any] | None = None,
) -> httpx2.Response:
    """The answer of the server that `url` leads to, its body unread; to be closed.

    Args:
        headers_for: what is told to the server of an address: whoever may read a file tells its own server only.

    Raises:
        WrongAnswerError: it redirects for ever, or from https to http.
        httpx2.TransportError, httpx2.InvalidURL: no answer.
    """
    for _ in range(MAX_REDIRECTS + 1):
        headers = {"Accept-Encoding": "identity", **headers_for(url)}
        request = client.build_request("GET", url, headers=headers, extensions=extensions)
        response = client.send(request, stream=True, follow_redirects=False)
        target = response.headers.get("Location")
        if not response.is_redirect or target is None:
            return response
        response.close()
        after = str(response.url.join(target))
        if urlsplit(url).scheme == "https" and urlsplit(after).scheme != "https":
            raise WrongAnswerError(
                f"{shown} redirects from https to {urlsplit(after).scheme or 'nothing'}: that is unsafe"
            )
        url = after
    raise WrongAnswerError(f"{shown} redirects more than {MAX_REDIRECTS} times: check the address")


def conditions(wanted: range, tag: str) -> dict[str, str]:
    """The headers of a request for these bytes of a file with that tag; a range to MAX_FILE_BYTES is one to the end."""
    last = "" if wanted.stop >= MAX_FILE_BYTES else wanted.stop - 1
    headers = {"Range": f"bytes={wanted.start}-{last}"}
    if tag.startswith('"'):  # weak ones, and times of change, are no good for that
        headers["If-Range"] = tag
    return headers


def content_range(headers: Mapping[str, str]) -> ContentRange | None:
    """Of an answer; None: it has none that can be read."""
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if match is None:
        return None
    return ContentRange(int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3]))


def tag_of(headers: Mapping[str, str]) -> str:
    """Of the file that an answer is of; empty: its server tells none."""
    return headers.get("ETag") or headers.get("Last-Modified") or ""


def check_answer(status: int, headers: Mapping[str, str], wanted: range, file: KnownFile) -> None:
    """Whether an answer 200 or 206 begins with the first byte of `wanted`, of the same file, as it is.

    Raises:
        WrongAnswerError: it does not.
    """
    if status != _PARTIAL_CONTENT:
        raise WrongAnswerError(
            f"{file.shown} changed on its server, or cannot be read from there any more: load it anew"
        )
    part = content_range(headers)
    is_encoded = headers.get("Content-Encoding", "identity").lower() != "identity"
    if part is None or part.first != wanted.start or part.last >= wanted.stop or is_encoded:
        raise WrongAnswerError(f"the server of {file.shown} answers with other bytes than it was asked for")
    is_longer = None not in (part.n_bytes, file.n_bytes) and part.n_bytes != file.n_bytes
    tag = tag_of(headers)
    if is_longer or (file.tag and tag and tag != file.tag):
        raise WrongAnswerError(f"{file.shown} changed on its server: load it anew")


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Whom an address leads to: scheme, host, port. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
