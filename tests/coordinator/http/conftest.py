# SPDX-License-Identifier: MIT
"""One real server for the tests of this folder: `caravan serve` over two workers of its own and the demo model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

import httpx
import openai
import psutil
import pytest

from tests.coordinator.caravan_command import ALONE, all_end, family_of, press_ctrl_c, served_url, started

PARALLEL = 4
QUEUE = 6
MODEL = "little-llama"


@dataclass(frozen=True, slots=True)
class Server:
    """Where it answers, `http://HOST:PORT`, and its process."""

    url: str
    process: psutil.Process


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    """`caravan serve demo` over two workers, four sequences at once."""
    line = ("--local", "2", "--parallel", str(PARALLEL), "--queue", str(QUEUE), "--context", "2048", "--embeddings")
    with started("serve", "demo", "--listen", "127.0.0.1:0", "--alias", MODEL, *line, *ALONE) as process:
        yield Server(served_url(process), psutil.Process(process.pid))
        family = family_of(process)
        press_ctrl_c(process)
        assert process.wait(60) == 130
        assert all_end(family)


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    """The official client, which does not try again on its own."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def raw(server: Server) -> Iterator[httpx.Client]:
    """A plain HTTP client, for what the official one would not send."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client for asyncio."""
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_PROBES: Mapping[str, tuple[str, dict[str, object]]] = {
    "tools": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "a"}], "tools": [_TOOL], "tool_choice": "none", "max_tokens": 1},
    ),
    "embeddings": ("/v1/embeddings", {"input": "a"}),
    "responses": ("/v1/responses", {"input": "a", "max_output_tokens": 16}),
}
"""What a server with such a feature answers 200."""


@pytest.fixture(scope="package")
def features(server: Server) -> frozenset[str]:
    """Those of the features of `_PROBES` that this server has."""
    asked = {name: httpx.post(server.url + path, json=body, timeout=60) for name, (path, body) in _PROBES.items()}
    missing = {
        name
        for name, answer in asked.items()
        if answer.status_code in (404, 501) or (answer.status_code == 400 and "not supported" in answer.text)
    }
    return frozenset(asked) - missing


@pytest.fixture(autouse=True)
def has_feature(request: pytest.FixtureRequest) -> None:
    """Skips a test whose module names, in FEATURE, one that the server has not."""
    feature = getattr(request.module, "FEATURE", None)
    if feature is not None and feature not in request.getfixturevalue("features"):
        pytest.skip(f"this server has no {feature}")
