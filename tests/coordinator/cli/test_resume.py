# SPDX-License-Identifier: MIT
"""`caravan serve` is killed in the middle of its answers and started again: the workers' stages are taken over as they
are, and clients get by id what they would have got.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import psutil
import pytest

from coordinator.journal.records import packed, read_records
from native import Vocabulary, read_layout
from tests.coordinator.caravan_command import ALONE, DEMO_MODEL, press_ctrl_c, started, wait_until
from tests.line.processes import WorkerProcess

_KEYS = ("a key of the first client", "a key of the second one")
_OWN, _FOREIGN = ({"Authorization": f"Bearer {key}"} for key in _KEYS)
_LONG = {"max_tokens": 200, "stream": True, "stop": ["qqq", " qq"]}
_GRAMMAR = {"grammar": "root ::= [a-zé ,.] root", "max_tokens": 60}
_UNENDING = {"grammar": 'root ::= "ab" root', "max_tokens": 400}
_CHAT = {"messages": [{"role": "user", "content": "A story"}]}
_ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "Once upon a time", "temperature": 0, "logprobs": 2}),
    ("/v1/chat/completions", {**_CHAT, "temperature": 0, "stream_options": {"include_usage": True}}),
    ("/v1/completions", {"prompt": "One day", "temperature": 0.9, "seed": 5, "n": 2, "echo": True}),
    ("/v1/chat/completions", {**_CHAT, "temperature": 0.9, "seed": 6, "repeat_penalty": 1.1, **_GRAMMAR}),
]


@functools.cache
def _endless() -> dict[str, Any]:
    """No end before `max_tokens`."""
    with Vocabulary.load(read_layout(DEMO_MODEL)) as vocabulary:
        ends = filter(vocabulary.is_end_of_generation, range(vocabulary.n_tokens))
        return {**_LONG, "logit_bias": {str(token): -1000 for token in ends}}


@pytest.fixture
def workers() -> Iterator[list[WorkerProcess]]:
    with contextlib.ExitStack() as stack:
        workers = [WorkerProcess(name) for name in ("one", "two")]
        for worker in workers:
            stack.callback(worker.stop)
        yield workers


class _Stream:
    """The events of an answer, by id, as far as they came."""

    def __init__(self) -> None:
        self.last_id = ""
        self.events: list[dict[str, Any]] = []
        self.is_done = False

    def read(self, response: httpx.Response) -> None:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("id: "):
                self.last_id = line.removeprefix("id: ")
            elif line == "data: [DONE]":
                self.is_done = True
            elif line:
                self.events.append(json.loads(line.removeprefix("data: ")))

    @property
    def id(self) -> str:
        """Of the answer, the same in all its events."""
        (answer_id,) = {event["id"] for event in self.events}
        return str(answer_id)

    def said(self) -> dict[int, list[Any]]:
        """Of each choice what its events say together: text, how it ended, log probabilities."""
        said: dict[int, list[Any]] = {}
        for event in self.events:
            for choice in event["choices"]:
                text = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
                told = said.setdefault(choice["index"], ["", None, []])
                told[0] += text
                told[1] = choice["finish_reason"] or told[1]
                told[2] += (choice.get("logprobs") or {}).get("tokens", [])
        return said

    def usage(self) -> Any:  # noqa: ANN401 -- JSON
        """Of its tokens, as far as it is told."""
        counts = [event["usage"] for event in self.events if event.get("usage")]
        return [(each["prompt_tokens"], each["completion_tokens"]) for each in counts]


def _ready(process: Popen[str]) -> tuple[str, list[str]]:
    """Where it serves, and what it said before."""
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line)
        if ready := re.search(r"ready on (http://\S+)/v1$", line):
            return ready.group(1), told
    raise AssertionError("".join(told))


def _ask(url: str, path: str, body: dict[str, Any], stream: _Stream) -> None:
    with (
        contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError),
        httpx.stream("POST", url + path, json=_endless() | body, headers=_OWN, timeout=60) as response,
    ):
        stream.read(response)


@contextlib.contextmanager
def _asked(url: str, streams: list[_Stream]) -> Iterator[list[concurrent.futures.Future[None]]]:
    """All of them at once; over when this is left."""
    with concurrent.futures.ThreadPoolExecutor(len(streams)) as pool:
        asked = [
            pool.submit(_ask, url, path, body, stream) for (path, body), stream in zip(_ASKED, streams, strict=True)
        ]
        yield asked
    for each in asked:
        each.result()


def test_answers_go_on_after_the_coordinator_was_killed(workers: list[WorkerProcess], tmp_path: Path) -> None:
    keys, journal = tmp_path / "keys", tmp_path / "journal"
    keys.write_text("\n".join(_KEYS))
    command = ["serve", "demo", "--listen", "127.0.0.1:0", "--distribution", "on", "--json", "--context", "512", *ALONE]
    command += [f"--worker={worker.address}" for worker in workers]
    command += ["--api-key-file", str(keys), "--journal", str(journal), "--parallel", "8", "--reconnect-grace", "30s"]
    broken, undisturbed = [_Stream() for _ in _ASKED], [_Stream() for _ in _ASKED]
    with started(*command) as process:
        url, _ = _ready(process)
        with _asked(url, broken) as asked:
            wait_until(lambda: all(len(stream.events) > 10 for stream in broken) or any(each.done() for each in asked))
            process.kill()
    assert not any(stream.is_done for stream in broken)
    assert journal.stat().st_mode & 0o777 == 0o600
    _add_a_deadly_answer_and_a_torn_record(journal, broken[0].id)
    read_before = [psutil.Process(worker.pid).io_counters().read_chars for worker in workers]
    with started(*command) as process:
        url, told = _ready(process)
        assert "4 answers go on that this server had begun before: GET them by their ids\n" in told
        _check_taken_over(told, [worker.name for worker in workers])
        for worker, before in zip(workers, read_before, strict=True):
            assert psutil.Process(worker.pid).io_counters().read_chars - before < 1 << 20
        for (path, _), stream in zip(_ASKED, broken, strict=True):
            _check_refused(f"{url}{path}/{stream.id}")
            _go_on(f"{url}{path}/{stream.id}", stream)
        with _asked(url, undisturbed):
            pass
        for (path, _), stream, expected in zip(_ASKED, broken, undisturbed, strict=True):
            assert stream.is_done
            assert expected.is_done
            assert stream.said() == expected.said()
            assert stream.usage() == expected.usage()
            whole = httpx.get(f"{url}{path}/{stream.id}", headers=_OWN).json()
            texts = [choice.get("text") or choice["message"]["content"] for choice in whole["choices"]]
            assert texts == [said[0] for _, said in sorted(expected.said().items())]
            assert whole["id"] == stream.id
        _check_comes_back(url, undisturbed[0])
        _check_ends(url)
        deadly = httpx.get(f"{url}/v1/completions/cmpl-deadly", headers=_OWN)
        assert deadly.status_code == 503
        assert "died 6 times while it answered this" in deadly.json()["error"]["message"]
        press_ctrl_c(process)
        assert process.wait(60) == 130


def _add_a_deadly_answer_and_a_torn_record(journal: Path, answer_id: str) -> None:
    """One that five coordinators have tried already, otherwise as this one; and the beginning of a record."""
    records = read_records(journal.read_bytes()).records
    (begin,) = [record for record in records if record["is"] == "begin" and record["id"] == answer_id]
    about = begin["about"] | {"heading": begin["about"]["heading"] | {"id": "cmpl-deadly"}}
    with journal.open("ab") as file:
        file.write(packed({**begin, "id": "cmpl-deadly", "about": about, "n_gone_on": 5}))
        file.write(packed({"is": "gone", "id": answer_id})[:-3])


def _check_taken_over(told: list[str], names: list[str]) -> None:
    """No byte of weights was read: all of them were there, loaded."""
    loads = [json.loads(line) for line in told if line.startswith("{")]
    for name in names:
        last = [load for load in loads if load["phase"] == "loading" and load["worker"] == name][-1]
        assert (last["to_fetch_bytes"], [source["source"] for source in last["sources"]]) == (0, ["warm"])


def _check_comes_back(url: str, expected: _Stream) -> None:
    """Who hangs up may come back, within the grace."""
    path, body = _ASKED[0]
    stream = _Stream()
    with httpx.stream("POST", url + path, json=_endless() | body, headers=_OWN) as response:
        first = next(line for line in response.iter_lines() if line.startswith("data: "))
    address = f"{url}{path}/{json.loads(first.removeprefix('data: '))['id']}"
    _go_on(address, stream)
    assert stream.said() == expected.said()


def _check_ends(url: str) -> None:
    """Who does not want it any more says so; and nobody comes back for an answer of which nobody knows the id."""
    path, body = _ASKED[0]
    n_before = _n_cancelled(url)
    with httpx.stream("POST", url + path, json=_endless() | body | _UNENDING, headers=_OWN) as response:
        first = next(line for line in response.iter_lines() if line.startswith("data: "))
        address = f"{url}{path}/{json.loads(first.removeprefix('data: '))['id']}"
        assert httpx.delete(address, headers=_FOREIGN).status_code == 404
        ended = httpx.delete(address, headers=_OWN)
        assert ended.json() == {"id": address.rsplit("/", 1)[1], "object": "text_completion.deleted", "deleted": True}
    wait_until(lambda: _n_cancelled(url) == n_before + 1)
    assert httpx.get(address, headers=_OWN).status_code == 404
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url + path, json=_endless() | body | _UNENDING | {"stream": False}, headers=_OWN, timeout=0.3)
    wait_until(lambda: _n_cancelled(url) == n_before + 2)


def _n_cancelled(url: str) -> int:
    told = httpx.get(f"{url}/metrics", headers=_OWN).text
    counts = re.findall(r'^caravan_requests_ended_total\{.*reason="cancelled".*\} (\d+)', told, re.MULTILINE)
    return sum(map(int, counts))


def _check_refused(address: str) -> None:
    answer = httpx.get(address, headers=_FOREIGN)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_such_answer")
    assert httpx.get(address).status_code == 401
    wrong = httpx.get(address, params={"starting_after": "1,x"}, headers=_OWN)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "starting_after")


def _go_on(address: str, stream: _Stream) -> None:
    headers = _OWN | {"Last-Event-ID": stream.last_id}
    with httpx.stream("GET", address, params={"stream": "true"}, headers=headers, timeout=60) as response:
        stream.read(response)
