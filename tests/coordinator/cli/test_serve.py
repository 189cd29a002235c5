# SPDX-License-Identifier: MIT
"""How `caravan serve` ends, and what it says when a worker is gone. What it answers is tested beside `http/`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from subprocess import Popen

import httpx
import psutil

from tests.coordinator.caravan_command import (
    ALONE,
    all_end,
    family_of,
    press_ctrl_c,
    served_url,
    started,
    wait_until,
)

_SERVE = ("serve", "demo", "--listen", "127.0.0.1:0", "--local", "2", *ALONE)
_ENDLESS = {"prompt": "go", "grammar": 'root ::= "ab" root', "stream": True}


def _events(response: httpx.Response) -> Iterator[str]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def _rest_of_stderr(process: Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.read()


def test_ctrl_c_lets_a_request_finish_and_turns_new_ones_away() -> None:
    with started(*_SERVE) as process, httpx.Client(base_url=served_url(process), timeout=20) as client:
        family = family_of(process)
        with client.stream("POST", "/v1/completions", json=_ENDLESS | {"max_tokens": 400}) as response:
            events = _events(response)
            next(events)
            press_ctrl_c(process)
            wait_until(lambda: not _answers(client.base_url))
            rest = list(events)
        assert rest[-1] == "[DONE]"
        assert json.loads(rest[-2])["choices"][0]["finish_reason"] == "length"
        assert process.wait(10) == 130
        assert all_end(family)
        assert "finishing the requests that run" in _rest_of_stderr(process)


def _answers(url: httpx.URL) -> bool:
    try:
        return httpx.get(url.join("/health"), timeout=5).status_code == 200
    except httpx.ConnectError:
        return False


def test_a_second_ctrl_c_ends_it_at_once() -> None:
    with started(*_SERVE) as process, httpx.Client(base_url=served_url(process), timeout=20) as client:
        family = family_of(process)
        with client.stream("POST", "/v1/completions", json=_ENDLESS) as response:
            events = _events(response)
            next(events)
            press_ctrl_c(process)
            wait_until(lambda: not _answers(client.base_url))
            press_ctrl_c(process)
            assert process.wait(2) == 130
        assert all_end(family)


def test_a_lost_worker_ends_streams_with_its_name_and_later_requests_with_503() -> None:
    with started(*_SERVE) as process, httpx.Client(base_url=served_url(process), timeout=20) as client:
        family = family_of(process)
        with client.stream("POST", "/v1/completions", json=_ENDLESS) as response:
            events = _events(response)
            next(events)
            _worker(family, "local-2").kill()
            rest = list(events)
        error = json.loads(rest[-1])["error"]
        assert error["code"] == "worker_lost"
        assert "local-2" in error["message"]
        assert "[DONE]" not in rest
        refused = client.post("/v1/completions", json={"prompt": "go"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "worker_lost")
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "failed")
        assert health.json()["error"]["message"] == error["message"]
        assert process.stderr is not None
        assert "local-2" in process.stderr.readline()
        press_ctrl_c(process)
        assert process.wait(10) == 130
        assert all_end(family)
        assert "Traceback" not in _rest_of_stderr(process)


def _worker(family: list[psutil.Process], name: str) -> psutil.Process:
    (worker,) = [member for member in family if name in member.cmdline()]
    return worker


def test_a_line_that_cannot_be_ends_it_with_the_reason() -> None:
    with started("serve", "demo", "--listen", "127.0.0.1:0", "--layers", "0-3", *ALONE) as process:
        assert process.wait(20) == 1
        assert "do not cover" in _rest_of_stderr(process)
