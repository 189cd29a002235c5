# SPDX-License-Identifier: MIT
"""What a real server's line does: over HTTP, and by `caravan top` as a person meets it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx

from tests.coordinator.caravan_command import caravan, caravan_here, command_line, environment, wait_until
from tests.coordinator.http.conftest import MODEL, PARALLEL, Server

_STREAM = {"prompt": "Once", "grammar": 'root ::= "ab" root', "max_tokens": 1500, "stream": True}
"""Goes on for seconds: the grammar never lets it end."""


@contextlib.contextmanager
def _streaming(client: httpx.Client, n_tokens: int = 20) -> Iterator[None]:
    """While this request runs; so many of its tokens have come."""
    with client.stream("POST", "/v1/completions", json=_STREAM) as response:
        events = response.iter_lines()
        for _ in range(2 * n_tokens):  # each with an empty line behind it
            next(events)
        yield


def test_the_line_tells_its_workers_requests_frames_and_what_limits_it(raw: httpx.Client) -> None:
    with _streaming(raw), httpx.Client(base_url=raw.base_url, timeout=60) as other:
        response = other.get("/line", params={"window_s": 2})
    assert response.status_code == 200
    told = response.json()
    assert (told["model"], told["window_s"]) == (MODEL, 2)
    (line,) = told["lines"]
    assert (line["n_running"], line["n_waiting"], line["n_slots"]) == (1, 0, PARALLEL)
    assert line["decode"]["n_frames"] >= 10
    assert line["generated_per_s"] >= line["decode"]["n_frames"] / 2
    assert [stage["worker"] for stage in line["stages"]] == ["local-1", "local-2"]
    for stage in line["stages"]:
        assert 0 < stage["busy_share"] <= 1
        assert abs(stage["busy_share"] + stage["waiting_share"] + stage["idle_share"] - 1) < 1e-6
    frames = line["frames"]
    assert frames[0]["sent_s"] == 0
    assert [frame["number"] for frame in frames] == sorted(frame["number"] for frame in frames)
    for frame in frames:
        spans = frame["spans"]
        assert (spans[0]["start_s"], spans[-1]["end_s"]) == (frame["sent_s"], frame["received_s"])
        assert [span["stage"] for span in spans if span["kind"] == "computing"] == [0, 1]
    assert line["limit"]["sentence"].endswith(".")


def test_the_line_tells_what_its_machines_have_if_that_is_asked_for(raw: httpx.Client) -> None:
    def asked(query: str) -> list[dict[str, Any]]:
        (line,) = raw.get(f"/line{query}").json()["lines"]
        stages: list[dict[str, Any]] = line["stages"]
        return stages

    wait_until(lambda: all(stage["device_now"] for stage in asked("?devices=true")))
    for stage in asked("?devices=true"):
        assert stage["weights_bytes"] > 0
        assert 0 < stage["device_now"]["free_bytes"] < stage["device_now"]["total_bytes"]
        assert stage["device_now"]["description"]
    assert [stage["device_now"] for stage in asked("")] == [None, None]


def test_a_window_that_cannot_be_is_refused(raw: httpx.Client) -> None:
    for window in ("soon", "0", "181", "nan"):
        response = raw.get("/line", params={"window_s": window})
        assert response.status_code == 400, window
        assert response.json()["error"]["param"] == "window_s"


def test_top_prints_one_snapshot_where_there_is_no_terminal(raw: httpx.Client, server: Server) -> None:
    with _streaming(raw):
        as_json = caravan_here("top", "--url", server.url, "--once", "--json")
    with _streaming(raw):
        shown = caravan("top", "--url", f"{server.url}/v1")
    assert (as_json.returncode, as_json.stderr) == (0, "")
    (line,) = json.loads(as_json.stdout)["lines"]
    assert line["n_running"] == 1
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout
    assert f"requests: 1 running in {PARALLEL} slots, 0 waiting" in shown.stdout
    workers = [row.split()[:2] for row in shown.stdout.splitlines() if "local-" in row and row[0].isdigit()]
    assert workers == [["1", "local-1"], ["2", "local-2"]]
    waterfall = [row for row in shown.stdout.splitlines() if row.startswith("decode ")]
    assert waterfall
    assert any("1" in row[12:] and "2" in row[12:] for row in waterfall)


def test_ctrl_c_ends_the_live_view_and_leaves_the_terminal_as_it_was(server: Server) -> None:
    master, slave = pty.openpty()
    command = command_line("top", "--url", server.url)
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environment(TERM="xterm")
    )
    os.close(slave)
    try:
        shown = b""
        deadline_s = time.monotonic() + 60
        while b"local-2" not in shown and time.monotonic() < deadline_s:
            shown += os.read(master, 65536)
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(master, 65536):
                shown += part
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert b"\x1b[?1049h" in shown  # another screen, and no cursor
    assert b"\x1b[?25l" in shown
    end = shown[shown.rindex(b"local-2") :]
    assert b"\x1b[?1049l" in end
    assert b"\x1b[?25h" in end
    assert b"Traceback" not in shown


def test_top_says_what_is_wrong_in_one_sentence() -> None:
    nobody = caravan_here("top", "--url", "http://127.0.0.1:9")
    assert (nobody.returncode, nobody.stdout) == (3, "")
    assert "caravan: http://127.0.0.1:9 cannot be reached" in nobody.stderr
    assert "is caravan serve running there?" in nobody.stderr
    odd = caravan_here("top", "--url", "127.0.0.1:8080")
    assert odd.returncode == 2
    assert "is not an address such as http://127.0.0.1:8080" in odd.stderr
