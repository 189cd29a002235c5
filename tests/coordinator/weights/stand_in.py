# SPDX-License-Identifier: MIT
"""Stand-ins for servers of models, on loopback: a hub that redirects to another server, as Hugging Face's does, and a
plain file server. What goes wrong is asked for; what was asked of them is written down.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"

_NOT_OF_REPOSITORIES = ("/api/agent-harnesses",)
"""What huggingface_hub asks of its own accord, at most once a day: neither written down nor given a fault."""

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class Asked:
    """A request: its path, the first and the last byte asked for (None: no range), and who may read it."""

    path: str
    bytes_from: int | None
    bytes_to: int | None
    authorization: str | None


@dataclass
class FileServer:
    """Serves `files` by path. Change its fields while it runs.

    Attributes:
        faults: What to do with one request each: a status for an answer, "cut" to end in the middle, "stall" to stop
            there until `released`, 0: nothing.
        answers: Called for a request before all else; a status makes it the answer.
        n_body_bytes: Sent so far.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    has_ranges: bool = True
    faults: list[int | str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    answers: Callable[[Asked], int | None] = lambda _: None
    asked: list[Asked] = field(default_factory=list)
    n_body_bytes: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    _tags: dict[str, tuple[bytes, str]] = field(default_factory=dict)

    def etag(self, path: str) -> str:
        """Of the file as it is, unless told otherwise."""
        data = self.files[path]
        if self._tags.get(path, (b"", ""))[0] is not data:
            self._tags[path] = data, f'"{hashlib.sha256(data).hexdigest()}"'
        return self.etags.get(path) or self._tags[path][1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    place: FileServer

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        first = int(match[1]) if match else None
        last = int(match[2]) if match and match[2] else None
        asked = Asked(path, first, last, self.headers.get("Authorization"))
        self.place.asked.append(asked)
        fault = self.place.faults.pop(0) if self.place.faults else None
        status = self.place.answers(asked) or (fault if isinstance(fault, int) else None)
        if status:
            self._head(status, 0, self.place.headers)
        elif path not in self.place.files:
            self._head(404, 0, {})
        else:
            self._file(asked, fault)

    def _file(self, asked: Asked, fault: int | str | None) -> None:
        data, etag = self.place.files[asked.path], self.place.etag(asked.path)
        same = self.headers.get("If-Range") in (None, etag)
        if self.place.has_ranges and asked.bytes_from is not None and same:
            end = len(data) if asked.bytes_to is None else min(asked.bytes_to + 1, len(data))
            body = data[asked.bytes_from : end]
            about = {"Content-Range": f"bytes {asked.bytes_from}-{end - 1}/{len(data)}", "ETag": etag}
            self._head(206, len(body), about)
        else:
            body = data
            self._head(200, len(body), {"ETag": etag})
        if fault in ("cut", "stall"):
            body = body[: len(body) // 2]
            self.close_connection = True
        with contextlib.suppress(OSError):
            for offset in range(0, len(body), 1 << 16):
                chunk = body[offset : offset + (1 << 16)]
                self.place.n_body_bytes += len(chunk)
                self.wfile.write(chunk)
        if fault == "stall":
            self.place.released.wait(20)

    def _head(self, status: int, n_bytes: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(n_bytes), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Hub(FileServer):
    """A hub: lists the files of repositories, and redirects to `store` for their bytes.

    Attributes:
        repositories: Files by path, by repository.
        token: Who asks without it is turned away; None: everyone may read.
        gated: Repositories whose terms nobody has accepted.
        redirects: Whether the store has the bytes; else the hub gives them.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str | None = None
    gated: set[str] = field(default_factory=set)
    store: FileServer = field(default_factory=FileServer)
    n_signed: int = 0
    redirects: bool = True


class _HubHandler(_Handler):
    place: Hub

    def do_GET(self) -> None:
        hub, path = self.place, unquote(urlsplit(self.path).path)
        if path in _NOT_OF_REPOSITORIES:
            self._head(404, 0, {})
            return
        hub.asked.append(Asked(path, None, None, self.headers.get("Authorization")))
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path)
        file = re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", path)
        found = (listing or file)[1] if listing or file else ""  # type: ignore[index]
        if hub.faults:
            self._head(int(hub.faults.pop(0)), 0, {})
        elif hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._head(401, 0, {"X-Error-Code": "RepoNotFound"})
        elif found not in hub.repositories:
            self._head(404, 0, {"X-Error-Code": "RepoNotFound"})
        elif listing:
            self._listing(found)
        elif found in hub.gated:
            self._head(403, 0, {"X-Error-Code": "GatedRepo"})
        elif file and file[2] in hub.repositories[found] and not hub.redirects:
            hub.files[path] = hub.repositories[found][file[2]]
            first, _, last = self.headers.get("Range", "bytes=0-")[6:].partition("-")
            self._file(Asked(path, int(first), int(last) if last else None, None), None)
        elif file and file[2] in hub.repositories[found]:
            hub.n_signed += 1
            target = f"/blobs/{found}/{file[2]}"
            hub.store.files[target] = hub.repositories[found][file[2]]
            self._head(302, 0, {"Location": f"{hub.store.url}{target}?signed={hub.n_signed}"})
        else:
            self._head(404, 0, {"X-Error-Code": "EntryNotFound"})

    def _listing(self, repo_id: str) -> None:
        siblings: list[dict[str, Any]] = [
            {
                "rfilename": path,
                "size": len(data),
                "blobId": hashlib.sha1(data).hexdigest(),
                "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134},
            }
            for path, data in self.place.repositories[repo_id].items()
        ]
        about = {"id": repo_id, "modelId": repo_id, "sha": COMMIT, "private": False, "siblings": siblings, "tags": []}
        body = json.dumps({**about, "downloads": 0}).encode()
        self._head(200, len(body), {"Content-Type": "application/json"})
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Who asked went away, as is his right."""


@contextlib.contextmanager
def serving(place: FileServer, host: str = "127.0.0.1") -> Iterator[None]:
    """While this lasts, `place` is served at its `url`."""
    kind: type[_Handler] = _HubHandler if isinstance(place, Hub) else _Handler
    server = _Server((host, 0), type("Handler", (kind,), {"place": place}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    place.url = f"http://{host}:{server.server_port}"
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
