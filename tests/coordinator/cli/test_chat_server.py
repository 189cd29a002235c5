# SPDX-License-Identifier: MIT
"""`caravan chat --server`: with a real `caravan serve`, from a pipe and on a terminal; with servers that misbehave."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from coordinator.http.chat_client import ChatClient, Delta, ServerError
from coordinator.http.server_address import ServerAddress
from tests.coordinator.caravan_command import ALONE, caravan, caravan_here, served_url, started, wait_until
from tests.coordinator.terminal import CTRL_C, CTRL_D, ENTER, in_terminal

_KEY = "a-key-of-nobody-at-all-0123456789"
_PROMPT = r"\n>[ \x08]*$"


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the server's key."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(_KEY + "\n")
    return path


@pytest.fixture(scope="module")
def server(key_file: Path) -> Iterator[str]:
    """One that wants a key, and goes on with answers whose clients are gone."""
    wants = ["--require-key", "--api-key-file", str(key_file)]
    wants += ["--journal", str(key_file.with_name("journal")), "--reconnect-grace", "10m"]
    with started("serve", "demo", "--listen", "127.0.0.1:0", "--local", "1", *wants, *ALONE) as process:
        yield served_url(process)


def test_a_pipe_talks_with_a_server_and_changes_to_models_that_it_has(
    server: str, key_file: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    typed = f"/system Be brief.\nTell me a story.\n/model demo\n/model other\n/stats\n/set top-k 7\n/save {kept}\n"
    asked = ("chat", "--server", f"{server}/v1", "--temperature", "0", "-n", "12", "--stats")
    ended = caravan(*asked, "--api-key-file", key_file, stdin=typed)
    assert ended.returncode == 1, ended.stderr  # a model was refused
    saved = json.loads(kept.read_text())
    assert saved["model"] == "demo"
    assert [each["role"] for each in saved["messages"]] == ["system", "user", "assistant"]
    assert ended.stdout == saved["messages"][2]["content"] + "\n"
    assert f"caravan: {server}/v1 has no model other; it has demo" in ended.stderr
    assert re.search(r"12 tokens, [\d.]+ tokens per second; \d+ prompt tokens, TTFT \d+ ms", ended.stderr)
    assert re.search(r"local-1 +layers 0 to 7", ended.stderr)


def test_ctrl_c_stops_a_servers_answer_and_the_chat_goes_on(server: str, tmp_path: Path) -> None:
    grammar = tmp_path / "endless.gbnf"
    grammar.write_text('root ::= "ab" root\n')
    asked = ("chat", "--server", server, "--api-key", _KEY, "--grammar-file", str(grammar))
    with in_terminal(*asked, XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.wait_for(r"demo on \S+[^>]*" + _PROMPT)
        terminal.type("go on" + ENTER)
        terminal.wait_for("abababab")
        terminal.type(CTRL_C)
        terminal.wait_for("stopped; Ctrl-C again leaves[^>]*" + _PROMPT)
        wait_until(lambda: 'reason="cancelled"} 1.0\n' in _metrics(server))
        terminal.type("/set max-tokens 6" + ENTER)
        terminal.wait_for(_PROMPT)
        terminal.type("/retry" + ENTER)
        terminal.wait_for(r"ab[ab]*\n[^>]*for want of tokens[^>]*" + _PROMPT)
        terminal.type(CTRL_D)
        assert terminal.end() == 0


def _metrics(server: str) -> str:
    return httpx.get(f"{server}/metrics", headers={"Authorization": f"Bearer {_KEY}"}).text


def test_who_cannot_be_talked_with_is_one_sentence(server: str) -> None:
    ended = caravan_here("chat", "--server", server, "--api-key", "another")
    assert ended.returncode == 3
    assert ended.stderr.startswith(f"caravan: {server} says: ")
    assert ended.stderr.endswith("(--api-key)\n")
    ended = caravan_here("chat", "--server", "http://127.0.0.1:1")
    assert ended.returncode == 3
    assert "http://127.0.0.1:1 cannot be reached" in ended.stderr
    for wrong, told in (
        (("--server", "127.0.0.1:8080"), "is not an address"),
        (("demo", "--api-key", "x"), "--api-key is for a server that runs"),
        (("--server", "http://127.0.0.1:1", "--layers", "0-3"), "--layers is for a line that this command opens"),
    ):
        ended = caravan_here("chat", *wrong)
        assert ended.returncode == 2
        assert told in ended.stderr


@contextlib.contextmanager
def _answering(status: int, body: bytes) -> Iterator[ChatClient]:
    """Somebody's server, which answers everything with this and hangs up."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield ChatClient(ServerAddress.parse(f"http://127.0.0.1:{server.server_port}"))
        finally:
            server.shutdown()
            thread.join()


def _told(status: int, body: bytes) -> list[Delta]:
    with _answering(status, body) as client:
        stream = client.stream("m", [{"role": "user", "content": "?"}], {})
        try:
            stream.begin()
            return list(stream)
        finally:
            stream.close()


def test_thoughts_comments_and_counts_of_other_servers_are_understood() -> None:
    body = (
        b': still here\n\ndata: {"choices": [{"delta": {"role": "assistant", "content": null}}]}\n\n'
        b'data: {"choices": [{"delta": {"reasoning_content": "Hm."}}]}\n\n'
        b'event: x\ndata: {"choices": [{"delta": {"content": "Ja."}, "finish_reason": "stop"}]}\n\n'
        b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\ndata: [DONE]\n\n'
    )
    counts = {"prompt_tokens": 3, "completion_tokens": 2}
    assert _told(200, body) == [Delta(), Delta(thought="Hm."), Delta("Ja.", finish_reason="stop"), Delta(usage=counts)]


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b'data: {"choices": [{"delta": {"content": "Ja"}}]}\n\n', "hung up in the middle of an answer"),
        (200, b'data: {"error": {"message": "a worker died"}}\n\n', "says: a worker died"),
        (200, b"data: <html>\n\n", "something else than OpenAI's API"),
        (400, b'{"error": {"message": "too long"}}', "says: too long"),
        (401, b"who are you?", r"answers 401 \(--api-key\)"),
        (502, b"[]", "answers 502"),
    ],
)
def test_what_goes_wrong_there_is_one_sentence(status: int, body: bytes, told: str) -> None:
    with pytest.raises(ServerError, match=told):
        _told(status, body)


def test_a_list_of_models_that_is_none_is_told() -> None:
    for body in (b"<html>", b"[]", b'{"data": [1]}'):
        with _answering(200, body) as client, pytest.raises(ServerError, match="something else than OpenAI's API"):
            client.models()
