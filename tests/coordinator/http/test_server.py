# SPDX-License-Identifier: MIT
"""A real server's edges: bad input, load, clients that leave, health."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.coordinator.caravan_command import ALONE, served_url, started, wait_until
from tests.coordinator.http.conftest import MODEL, PARALLEL, QUEUE, Server

_ENDLESS = {"prompt": "Once", "grammar": 'root ::= "ab" root', "max_tokens": 1500, "stream": True}
"""Goes on for seconds: the grammar never lets it end."""
_SHORT = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}


def _error(response: httpx.Response) -> dict[str, str]:
    body: dict[str, dict[str, str]] = response.json()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def test_health_tells_the_line(raw: httpx.Client) -> None:
    response = raw.get("/health")
    health = response.json()
    assert (response.status_code, health["status"], health["model"]) == (200, "ready", MODEL)
    assert (health["n_running"], health["n_waiting"]) == (0, 0)
    ranges = [(stage["layer_start"], stage["layer_end"]) for stage in health["stages"]]
    assert len(ranges) == 2
    assert ranges[0][0] == 0
    assert ranges[0][1] == ranges[1][0] < ranges[1][1]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/completions", {}, 400, "invalid_request"),
        ("/v1/completions", {"prompt": "a", "temperature": -1}, 400, "invalid_request"),
        ("/v1/completions", {"prompt": ""}, None, None),
        ("/v1/completions", {"prompt": [2_000_000_000]}, 400, "invalid_request"),
        ("/v1/completions", {"prompt": "a", "grammar": "root ::= ("}, 400, "invalid_request"),
        ("/v1/completions", {"prompt": "a", "repeat_last_n": 1 << 29}, 400, "invalid_request"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"99999999": 1}}, 400, "invalid_request"),
        ("/v1/completions", {"prompt": "word " * 3000}, 400, "context_length_exceeded"),
        ("/v1/completions", {"prompt": "word " * 3000, "stream": True}, 400, "context_length_exceeded"),
        ("/v1/chat/completions", {"messages": "hello"}, 400, "invalid_request"),
        ("/v1/images/generations", {"input": "a"}, 404, "no_such_route"),
        ("/health", {}, 405, "no_such_route"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(
    raw: httpx.Client, path: str, body: dict[str, object], status: int | None, code: str | None
) -> None:
    response = raw.post(path, json={"max_tokens": 2} | body)
    if status is None:
        assert response.status_code in (200, 400)
        return
    assert response.status_code == status, response.text
    assert _error(response)["code"] == code


def test_a_body_that_is_not_declared_as_json_is_refused(raw: httpx.Client) -> None:
    response = raw.post("/v1/completions", content=json.dumps(_SHORT), headers={"Content-Type": "text/plain"})
    assert response.status_code == 415
    assert "Content-Type: application/json" in _error(response)["message"]


def test_a_body_that_is_too_large_is_refused(raw: httpx.Client) -> None:
    response = raw.post("/v1/completions", json={"prompt": "a" * (9 << 20)})
    assert response.status_code == 413
    assert "8 MiB" in _error(response)["message"]


def test_a_page_under_a_foreign_name_is_turned_away(raw: httpx.Client) -> None:
    response = raw.get("/v1/models", headers={"Host": "evil.example:8080"})
    assert (response.status_code, _error(response)["code"]) == (403, "host_not_allowed")
    assert raw.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200
    assert "access-control-allow-origin" not in response.headers


def test_no_stack_trace_reaches_a_client(raw: httpx.Client) -> None:
    response = raw.post("/v1/completions", content=b"\xff\xfe{", headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert "Traceback" not in response.text


def test_beyond_slots_and_queue_a_request_is_told_to_come_again(server: Server, raw: httpx.Client) -> None:
    with contextlib.ExitStack() as connections:
        for _ in range(PARALLEL + QUEUE):
            _send(connections.enter_context(_connection(server)), _ENDLESS)
        wait_until(lambda: raw.get("/health").json()["n_waiting"] == QUEUE)
        refused = raw.post("/v1/completions", json=_SHORT)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert _error(refused)["type"] == "rate_limit_error"
    wait_until(lambda: raw.get("/health").json()["n_waiting"] == 0)
    assert raw.post("/v1/completions", json=_SHORT).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot_at_once(server: Server, raw: httpx.Client, stream: bool) -> None:
    def running() -> int:
        return int(raw.get("/health").json()["n_running"])

    with _connection(server) as connection:
        _send(connection, _ENDLESS | {"stream": stream})
        wait_until(lambda: running() == 1)
    wait_until(lambda: running() == 0, timeout_s=5)


@contextlib.contextmanager
def _connection(
    server: Server, *, source: str = "127.0.0.1", receive_buffer_bytes: int | None = None
) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.settimeout(20)
        if receive_buffer_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        connection.bind((source, 0))
        connection.connect((host, int(port)))
        yield connection


def _send(connection: socket.socket, body: dict[str, object]) -> None:
    content = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)


_WHOLE = _ENDLESS | {"temperature": 0, "logprobs": 20, "max_tokens": 600}
"""Over a megabyte of events: more than all buffers on the way hold, and 256 tokens."""


def _text_of(stream: bytes) -> str:
    """The answer that a stream of events tells, to its [DONE]."""
    events = [line.removeprefix(b"data: ") for line in stream.splitlines() if line.startswith(b"data: ")]
    assert events.pop() == b"[DONE]"
    return "".join(json.loads(event)["choices"][0]["text"] for event in events)


def test_a_client_that_reads_nothing_is_paused_while_others_go_on_and_gets_its_whole_answer(
    server: Server, raw: httpx.Client
) -> None:
    def running_and_paused() -> tuple[int, int]:
        health = raw.get("/health").json()
        return health["n_running"], health["n_paused"]

    with _connection(server, receive_buffer_bytes=4096) as leaving:
        _send(leaving, _WHOLE)
        wait_until(lambda: running_and_paused() == (1, 1))
    wait_until(lambda: running_and_paused() == (0, 0))
    with _connection(server, receive_buffer_bytes=4096) as slow:
        _send(slow, _WHOLE | {"priority": 2})
        wait_until(lambda: running_and_paused() == (1, 1))
        expected = _text_of(raw.post("/v1/completions", json=_WHOLE).content)
        assert running_and_paused() == (1, 1)
        received = b""
        while b"[DONE]" not in received:
            received += slow.recv(1 << 16)
    assert _text_of(received) == expected
    wait_until(lambda: running_and_paused() == (0, 0))


@pytest.fixture(scope="module")
def strict_server() -> Iterator[Server]:
    """One sequence, two requests of a client, three seconds each."""
    limits = ("--parallel", "1", "--client-limit", "2", "--request-timeout", "3", "--context", "2048")
    with started("serve", "demo", "--listen", "127.0.0.1:0", *limits, *ALONE) as process:
        yield Server(served_url(process), psutil.Process(process.pid))


def test_a_client_has_no_more_requests_than_its_limit_whatever_it_calls_itself(strict_server: Server) -> None:
    with contextlib.ExitStack() as connections:
        for address in ("127.0.0.1", "127.0.0.2"):
            _send(connections.enter_context(_connection(strict_server, source=address)), _ENDLESS)
        raw = connections.enter_context(httpx.Client(base_url=strict_server.url, timeout=60))
        wait_until(lambda: raw.get("/health").json()["n_waiting"] == 1)
        names = {"Authorization": "Bearer another", "X-Forwarded-For": "203.0.113.9"}
        refused = raw.post("/v1/completions", json=_SHORT | {"user": "another"}, headers=names)
        assert (refused.status_code, _error(refused)["code"]) == (429, "client_limit")
        assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_whose_time_is_over_is_told_so_and_its_slot_is_free(strict_server: Server, stream: bool) -> None:
    with httpx.Client(base_url=strict_server.url, timeout=60) as raw, _connection(strict_server) as first:
        _send(first, _ENDLESS)
        wait_until(lambda: raw.get("/health").json()["n_running"] == 1)
        waiting = raw.post("/v1/completions", json=_SHORT | {"timeout": 0.2, "stream": stream})
        assert (waiting.status_code, _error(waiting)["type"]) == (504, "timeout_error")
        assert "0.2 s (it had no token yet)" in _error(waiting)["message"]
        assert waiting.headers["x-should-retry"] == "false"
    with httpx.Client(base_url=strict_server.url, timeout=60) as raw:
        wait_until(lambda: raw.get("/health").json()["n_running"] == 0)
        answer = raw.post("/v1/completions", json=_ENDLESS | {"n": 2, "stream": stream})
        last = answer.text.strip().splitlines()[-1].removeprefix("data: ")
        assert answer.status_code == (200 if stream else 504)
        assert json.loads(last)["error"]["code"] == "timeout"
        assert raw.get("/health").json()["n_running"] == 0
