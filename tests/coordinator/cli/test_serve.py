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
    with started(*_SERVE) as process, httpx.Client(base_url=served_url(process), timeout=60) as client:
        family = family_of(process)
        with client.stream("POST", "/v1/completions", json=_ENDLESS | {"max_tokens": 400}) as response:
            events = _events(response)
            next(events)
            press_ctrl_c(process)
            wait_until(lambda: not _answers(client.base_url))
            rest = list(events)
        assert rest[-1] == "[DONE]"
        assert json.loads(rest[-2])["choices"][0]["finish_reason"] == "length"
        assert process.wait(60) == 130
        assert all_end(family)
        assert "finishing the requests that run" in _rest_of_stderr(process)


def _answers(url: httpx.URL) -> bool:
    try:
        return httpx.get(url.join("/health"), timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_a_second_ctrl_c_ends_it_at_once() -> None:
    with started(*_SERVE) as process, httpx.Client(base_url=served_url(process), timeout=60) as client:
        family = family_of(process)
        with client.stream("POST", "/v1/completions", json=_ENDLESS) as response:
            events = _events(response)
            next(events)
            press_ctrl_c(process)
            wait_until(lambda: not _answers(client.base_url))
            press_ctrl_c(process)
            assert process.wait(5) == 130
        assert all_end(family)


def test_a_streamed_answer_goes_on_with_the_same_text_when_a_worker_dies() -> None:
    with started(*_SERVE) as process, httpx.Client(base_url=served_url(process), timeout=60) as client:
        family = family_of(process)
        asked = {"prompt": "Once upon a time", "max_tokens": 150, "temperature": 0, "stream": True}
        texts = []
        for kills in (False, True):
            with client.stream("POST", "/v1/completions", json=asked) as response:
                events = _events(response)
                begun = [next(events) for _ in range(5)]
                if kills:
                    _worker(family, "local-2").kill()
                *pieces, last = [*begun, *events]
            assert last == "[DONE]"
            texts.append("".join(json.loads(piece)["choices"][0]["text"] for piece in pieces))
        assert texts[0] == texts[1]
        health = client.get("/health").json()
        assert (health["status"], [stage["worker"] for stage in health["stages"]]) == ("ready", ["local-1", "local-2"])
        events = client.get("/line").json()["events"]
        assert [event["change"] for event in events] == ["lost", "worker ended", "resumed"]
        assert (events[0]["worker"], events[-1]["n_streams"]) == ("local-2", 1)
        assert process.stderr is not None
        assert "the line broke: worker local-2" in process.stderr.readline()
        assert "worker local-2 ended at " in (ended := process.stderr.readline())
        assert " by SIGKILL" in ended
        assert "going on with local-1 and local-2, 1 stream resumed after" in process.stderr.readline()
        family = family_of(process)
        press_ctrl_c(process)
        assert process.wait(60) == 130
        assert all_end(family)
        assert "Traceback" not in _rest_of_stderr(process)


def _worker(family: list[psutil.Process], name: str) -> psutil.Process:
    (worker,) = [member for member in family if name in member.cmdline()]
    return worker


def test_a_line_that_cannot_be_ends_it_with_the_reason() -> None:
    with started("serve", "demo", "--listen", "127.0.0.1:0", "--layers", "0-3", *ALONE) as process:
        assert process.wait(60) == 1
        assert "do not cover" in _rest_of_stderr(process)
