# SPDX-License-Identifier: MIT
"""Several models of one `caravan serve` over the same workers: loaded when they are named, and making way."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.coordinator.caravan_command import ALONE, press_ctrl_c, served_url, started, wait_until
from tests.line.processes import WorkerProcess
from tests.models import write_model

pytestmark = pytest.mark.timeout(120)

_ASKED = {"prompt": "Once upon a time", "max_tokens": 6, "temperature": 0}
_CHAT = {"messages": [{"role": "user", "content": "a llama"}]}
_ENDLESS = {"prompt": "go", "grammar": 'root ::= "ab" root', "stream": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of nonsense, one that was cut off, and the tables of a configuration."""
    folder = tmp_path_factory.mktemp("models")
    model = write_model(folder / "nonsense.gguf", "llama", with_text=True)
    (folder / "broken.gguf").write_bytes(model.read_bytes()[:-4096])
    (folder / "config.toml").write_text(
        f"""
[models.tale]
model = "demo"
layers = "attic=0-3,cellar=4-7"
context = 2048

[models.nonsense]
layers = "attic=0-2,cellar=3-5"
embeddings = true

[models.left]
model = "{model}"
max-stages = 1

[models.right]
model = "{model}"
max_stages = 1
"""
    )
    return folder


@pytest.fixture(scope="module")
def line() -> Iterator[list[str]]:
    """Options that name two workers, and no others."""
    started: list[WorkerProcess] = []
    try:
        started += [WorkerProcess(name) for name in ("attic", "cellar")]
        yield [*ALONE, *(option for worker in started for option in ("--worker", worker.address))]
    finally:
        for worker in started:
            worker.stop()


@pytest.fixture(scope="module")
def client(folder: Path, line: list[str]) -> Iterator[httpx.Client]:
    """Of a server with two models that need both workers, two that need one each, and one that cannot be."""
    command = ("serve", "tale", "--models-dir", folder, "--listen", "127.0.0.1:0", "--swap-timeout", "30")
    with (
        started("--config", folder / "config.toml", *command, *line) as process,
        httpx.Client(base_url=served_url(process), timeout=40) as client,
    ):
        yield client


def _text(client: httpx.Client, model: str | None) -> str:
    answer = client.post("/v1/completions", json=_ASKED | ({} if model is None else {"model": model}))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert model in (None, body["model"])
    return str(body["choices"][0]["text"])


def _loaded(client: httpx.Client) -> list[str]:
    models = client.get("/models").json()["data"]
    for model in models:
        assert bool(model["stages"]) == (model["status"]["value"] == "loaded")
    return sorted(model["id"] for model in models if model["status"]["value"] == "loaded")


def _code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_model_is_loaded_when_it_is_named_and_the_other_makes_way(client: httpx.Client) -> None:
    tale = _text(client, "tale")
    nonsense = _text(client, "nonsense")
    assert _loaded(client) == ["nonsense"]
    assert _text(client, None) == nonsense != tale
    assert _text(client, "tale") == tale
    assert _loaded(client) == ["tale"]
    events = [(event["model"], event["change"]) for event in client.get("/line").json()["events"]]
    assert events[-3:] == [("tale", "loading"), ("nonsense", "unloaded"), ("tale", "loaded")]


def test_clients_of_two_models_take_turns(client: httpx.Client) -> None:
    expected = {name: _text(client, name) for name in ("tale", "nonsense")}
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda name: (name, _text(client, name)), ["tale", "nonsense"] * 3))
    assert texts == [(name, expected[name]) for name, _ in texts]


def test_models_that_have_room_are_loaded_beside_each_other(client: httpx.Client) -> None:
    with ThreadPoolExecutor(2) as pool:
        left, right = pool.map(lambda name: _text(client, name), ("left", "right"))
    assert left == right
    assert _loaded(client) == ["left", "right"]
    plans = [client.get("/plan", params={"model": name}).json()["plans"] for name in ("left", "right")]
    used = [plan[0]["stages"][0]["worker"] for plan in plans]
    assert sorted(used) == ["attic", "cellar"]
    metrics = client.get("/metrics").text
    for name, worker in zip(("left", "right"), used, strict=True):
        assert f'caravan_stage_layers{{line="0",model="{name}",worker="{worker}"}}' in metrics


def test_each_route_takes_the_model_that_is_named(client: httpx.Client) -> None:
    assert _text(client, "nonsense")
    vectors = client.post("/v1/embeddings", json={"model": "nonsense", "input": "a"})
    assert (vectors.status_code, vectors.json()["model"]) == (200, "nonsense")
    assert client.get("/props", params={"model": "nonsense"}).json()["model_alias"] == "nonsense"
    assert len(client.get("/slots", params={"model": "nonsense"}).json()) == 4
    for route in ("/props", "/slots", "/line", "/plan"):
        assert _code(client.get(route, params={"model": "tale"})) == (503, "not_loaded")
        assert _code(client.get(route, params={"model": "nothing"})) == (404, "model_not_found")
    refused = client.post("/v1/chat/completions", json=_CHAT | {"model": "nothing"})
    assert _code(refused) == (404, "model_not_found")
    assert "but 'tale', 'left', 'right', 'broken', 'nonsense'" in refused.json()["error"]["message"]
    assert len(client.post("/tokenize", json={"model": "tale", "content": "a llama"}).json()["tokens"]) == 2
    assert _loaded(client) == ["tale"]


def test_a_model_is_loaded_and_unloaded_by_order(client: httpx.Client) -> None:
    _unload_all(client)
    assert client.get("/health").json()["status"] == "ready"
    assert client.post("/v1/models/load", json={"model": "left"}).json() == {"success": True}
    wait_until(lambda: _loaded(client) == ["left"])
    assert _code(client.post("/models/load", json={"model": "nothing"})) == (404, "model_not_found")


def test_a_model_that_cannot_be_loaded_says_why_and_costs_the_others_nothing(client: httpx.Client) -> None:
    assert _text(client, "tale")
    refused = client.post("/v1/completions", json=_ASKED | {"model": "broken"})
    assert _code(refused) == (503, "model_error")
    assert "cut off" in refused.json()["error"]["message"]
    status = client.get("/v1/models/broken").json()["status"]
    assert (status["value"], status["failed"]) == ("unloaded", True)
    assert "cut off" in status["message"]
    assert _loaded(client) == ["tale"]


def test_a_client_that_hangs_up_while_its_model_waits_for_room_costs_the_other_nothing(client: httpx.Client) -> None:
    def is_leaving() -> bool:
        return "unloading" in client.get("/v1/models/tale").json()["status"]

    assert _text(client, "tale")
    with client.stream("POST", "/v1/completions", json=_ENDLESS | {"model": "tale", "max_tokens": 1500}) as stream:
        events = stream.iter_lines()
        next(events)
        with _connection(client) as leaving:
            _send(leaving, _ASKED | {"model": "nonsense"})
            wait_until(is_leaving)
        wait_until(lambda: not is_leaving())
        assert client.get("/health").json()["n_waiting"] == 0
        late = client.post("/v1/completions", json=_ASKED | {"model": "nonsense", "timeout": 0.2})
        assert _code(late) == (504, "timeout")
        assert _loaded(client) == ["tale"]


@contextlib.contextmanager
def _connection(client: httpx.Client) -> Iterator[socket.socket]:
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), 20) as connection:
        yield connection


def _send(connection: socket.socket, body: dict[str, object]) -> None:
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)


def _unload_all(client: httpx.Client) -> None:
    for name in _loaded(client):
        assert client.post("/models/unload", json={"model": name}).json() == {"success": True}
    wait_until(lambda: not _loaded(client))


def test_a_stop_while_a_model_makes_way_turns_away_who_waits(
    folder: Path, line: list[str], client: httpx.Client
) -> None:
    _unload_all(client)
    two = ("demo", f"b={folder / 'nonsense.gguf'}", "--models-max", "1", "--context", "2048")
    asked = _ENDLESS | {"model": "demo", "max_tokens": 1500}
    with (
        started("serve", *two, "--listen", "127.0.0.1:0", *line) as process,
        httpx.Client(base_url=served_url(process), timeout=30) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        with other.stream("POST", "/v1/completions", json=asked) as stream:
            next(stream.iter_lines())
            waiting = pool.submit(other.post, "/v1/completions", json=_ASKED | {"model": "b"})
            wait_until(lambda: "unloading" in other.get("/v1/models/demo").json()["status"])
            press_ctrl_c(process)
            assert _code(waiting.result()) == (503, "stopping")
        assert process.wait(10) == 130


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_swaps_leave_nothing_behind(folder: Path, line: list[str], client: httpx.Client) -> None:
    _unload_all(client)
    two = ("demo", f"b={folder / 'nonsense.gguf'}", "--models-max", "1", "--distribution", "on")
    marks: list[tuple[int, int, int]] = []
    with (
        started("serve", *two, "--listen", "127.0.0.1:0", *line) as process,
        httpx.Client(base_url=served_url(process), timeout=60) as other,
    ):
        server = psutil.Process(process.pid)
        workers = [child for child in psutil.Process().children() if "worker" in child.cmdline()]
        for _ in range(5):
            for _ in range(10):
                _text(other, "b")
                _text(other, "demo")
            used_bytes = sum(each.memory_info().rss for each in (server, *workers))
            marks.append((used_bytes, server.num_fds(), server.num_threads()))
    # Sixty swaps; connections of a model that is gone are closed now and then, ten at a time.
    grown = [last - first for first, last in zip(marks[1], marks[-1], strict=True)]
    assert grown[0] < 32 << 20
    assert grown[1] < 40
    assert grown[2] < 10
