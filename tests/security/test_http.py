# SPDX-License-Identifier: MIT
"""Attacks on `caravan serve`: without a key, from a web page, under another name, with too much, and too slowly."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from coordinator.http import body, patience
from coordinator.http.access import Access
from coordinator.http.server import HttpServer, ListenAddress, bind
from coordinator.http.service import Service
from coordinator.resident import KnownModel
from protos.secret_file import IDENTITY_VARIABLE
from tests.coordinator.caravan_command import ALONE, caravan_here, served_url, started

_PAGE = "https://chat.example.org"
_SHORT = {"prompt": "Once upon a time", "max_tokens": 2}


@dataclass(frozen=True, slots=True)
class Server:
    """Where it answers, one of its keys, and how commands reach its files."""

    url: str
    key: str
    folders: dict[str, str]

    def client(self, key: str | None) -> httpx.Client:
        """With that key."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`caravan serve demo` that wants keys, and lets one name and one web page in."""
    folders = {IDENTITY_VARIABLE: str(tmp_path_factory.mktemp("keys"))}
    key = caravan_here("keys", "add", "first", **folders).stdout.strip()
    options = ("--require-key", "--allowed-host", "llama.example.org", "--cors", _PAGE, "--local", "1")
    with started("serve", "demo", "--listen", "127.0.0.1:0", *options, *ALONE, **folders) as process:
        yield Server(served_url(process), key, folders)


# ---- keys ----


@pytest.mark.parametrize(
    "path", ["/v1/models", "/models", "/line", "/metrics", "/slots", "/docs", "/nowhere", "/health/"]
)
def test_without_a_key_nothing_is_told(server: Server, path: str) -> None:
    with server.client(None) as client:
        refused = client.get(path)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")


def test_without_a_key_health_tells_how_far_it_is_and_no_more(server: Server) -> None:
    with server.client(None) as client, server.client(server.key) as known:
        assert client.get("/health").json() == client.get("/v1/health").json() == {"status": "ready"}
        assert known.get("/health").json()["stages"]
        assert client.get("/metrics").status_code == 401
        assert 'route="other",status="401"' in known.get("/metrics").text


def test_without_a_key_the_page_is_there_and_nothing_that_it_asks_for(server: Server) -> None:
    with server.client(None) as client:
        assert client.get("/").status_code == client.get("/page/main.js").status_code == 200
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
        assert [client.post("/").status_code, client.get("/plan").status_code, client.get("/page/").status_code] == [
            401
        ] * 3


def test_a_wrong_key_is_refused_whatever_it_looks_like(server: Server) -> None:
    hashed = json.loads(caravan_here("keys", "list", "--json", **server.folders).stdout)[0]["sha256"]
    for key in (server.key[:-1], server.key + "x", hashed, "\xff", "none"):
        header = f"Bearer {key}".encode("latin-1")
        asked = httpx.post(f"{server.url}/v1/completions", json=_SHORT, headers={b"Authorization": header})
        assert asked.status_code == 401, key
    for scheme in (f"Basic {server.key}", server.key):
        assert httpx.get(f"{server.url}/v1/models", headers={"Authorization": scheme}).status_code == 401


def test_openai_s_client_gets_in_with_a_key_and_its_own_error_without(server: Server) -> None:
    for key in (server.key, "sk-wrong"):
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
            if key == server.key:
                assert client.models.list().data[0].id == "demo"
            else:
                with pytest.raises(openai.AuthenticationError):
                    client.models.list()


def test_a_key_that_is_removed_is_worth_nothing_at_once_and_only_hashes_are_kept(server: Server) -> None:
    key = caravan_here("keys", "add", "phone", **server.folders).stdout.strip()
    (file,) = Path(server.folders[IDENTITY_VARIABLE]).glob("api-keys.json")
    assert file.stat().st_mode & 0o777 == 0o600
    assert key not in file.read_text()
    with server.client(key) as client:
        assert client.get("/v1/models").status_code == 200
        assert caravan_here("keys", "remove", "phone", **server.folders).returncode == 0
        assert client.get("/v1/models").status_code == 401


def test_top_asks_with_a_key_from_a_file(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"# of this server\n{server.key}\n")
    asked = caravan_here("top", "--json", "--url", server.url, "--api-key-file", file)
    assert json.loads(asked.stdout)["model"] == "demo"
    refused = caravan_here("top", "--json", "--url", server.url)
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "API key is missing" in refused.stderr


def test_beyond_this_machine_a_key_is_made_and_wanted(tmp_path: Path) -> None:
    folders = {IDENTITY_VARIABLE: str(tmp_path)}
    with started("serve", "demo", "--listen", "0.0.0.0:0", "--local", "1", *ALONE, **folders) as process:
        assert process.stderr is not None
        told = [process.stderr.readline() for _ in range(4)]
        key = told[1].strip()
        assert "shown this once" in told[0]
        assert "caravan worker --join" in told[3]
        url = served_url(process).replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200


# ---- web pages ----


@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.1.evil.example.org", "192.168.1.9", ""])
def test_a_page_whose_name_was_rebound_to_this_machine_is_turned_away(server: Server, host: str) -> None:
    with server.client(server.key) as client:
        refused = client.get("/v1/models", headers={"Host": host})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "host_not_allowed")
        assert client.get("/v1/models", headers={"Host": "LLAMA.example.org:80"}).status_code == 200


def test_a_page_of_another_origin_may_read_nothing(server: Server) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with server.client(server.key) as client:
        for origin in ("https://evil.example.org", f"{_PAGE}.evil.example.org", "null"):
            assert "access-control-allow-origin" not in client.get("/v1/models", headers={"Origin": origin}).headers
            assert client.options("/v1/completions", headers=preflight | {"Origin": origin}).status_code == 400
        assert client.get("/v1/models", headers={"Origin": _PAGE}).headers["access-control-allow-origin"] == _PAGE
    with server.client(None) as browser:
        assert browser.options("/v1/completions", headers=preflight | {"Origin": _PAGE}).status_code == 200


# ---- too much ----


@pytest.mark.parametrize("name", ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%00", "/etc/passwd", "a" * 4000])
def test_a_path_in_place_of_a_model_s_name_opens_nothing(server: Server, name: str) -> None:
    with server.client(server.key) as client:
        # As it is: httpx would tidy up.
        request = client.build_request("GET", "/")
        request.url = request.url.copy_with(raw_path=f"/v1/models/{name}".encode())
        refused = client.send(request)
        assert refused.status_code == 404
        assert "root:" not in refused.text
        # There is one model, and its name in a request changes nothing.
        answer = client.post("/v1/completions", json=_SHORT | {"model": name})
        assert answer.status_code == 400 or answer.json()["model"] == "demo"


def test_a_huge_header_ends_the_connection(server: Server) -> None:
    with _connection(server.url) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(OSError):
            for _ in range(1 << 10):
                connection.sendall(b"X-Padding: " + b"a" * 1024 + b"\r\n")
        with contextlib.suppress(OSError):
            answer = connection.recv(1 << 10)
            assert answer.startswith(b"HTTP/1.1 400") or answer == b""
    with server.client(None) as client:
        assert client.get("/health").status_code == 200


@contextlib.contextmanager
def _connection(url: str) -> Iterator[socket.socket]:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        yield connection


# ---- too slowly ----


@contextlib.asynccontextmanager
async def _impatient(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, int]]:
    """A server that waits 0.4 s instead of half a minute and more; nothing is loaded behind it."""
    monkeypatch.setattr(patience, "HEAD_S", 0.4)
    monkeypatch.setattr(body, "_BODY_S", 0.4)
    listening = bind(ListenAddress("127.0.0.1", 0))
    server = HttpServer(Service([KnownModel("none", "none")]), listening, Access())
    serving = asyncio.create_task(server.run())
    yield listening.getsockname()
    server.drain()
    await serving


_HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n"
)


@pytest.mark.parametrize(
    ("beginning", "status"),
    [
        (b"", b"408"),
        (b"GET /health HT", b"408"),
        (_HEAD, b"408"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he", b"503"),
        (b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n", b"404"),
    ],
    ids=["nothing", "a head", "a body", "a second head", "a body that nobody reads"],
)
async def test_who_sends_byte_by_byte_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch, beginning: bytes, status: bytes
) -> None:
    async with _impatient(monkeypatch) as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(beginning)

        async def drip() -> None:
            with contextlib.suppress(OSError):
                while True:
                    await asyncio.sleep(0.05)
                    writer.write(b"a" if beginning else b"")

        dripping = asyncio.create_task(drip())
        with contextlib.suppress(ConnectionResetError):
            answer = await asyncio.wait_for(reader.read(), 3)
            assert answer.startswith(b"HTTP/1.1 " + status)
        dripping.cancel()
        writer.close()


async def test_who_takes_time_between_requests_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _impatient(monkeypatch) as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        for _ in range(2):
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503")
            await reader.readuntil(b"}]}")
            await asyncio.sleep(0.8)
        writer.close()
