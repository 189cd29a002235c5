# SPDX-License-Identifier: MIT
"""One real server for the tests of this folder: `caravan serve` over two workers of its own and the demo model."""

from __future__ import annotations

from collections.abc import Iterator
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
    line = ("--local", "2", "--parallel", str(PARALLEL), "--queue", str(QUEUE), "--context", "2048")
    with started("serve", "demo", "--listen", "127.0.0.1:0", "--alias", MODEL, *line, *ALONE) as process:
        yield Server(served_url(process), psutil.Process(process.pid))
        family = family_of(process)
        press_ctrl_c(process)
        assert process.wait(10) == 130
        assert all_end(family)


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    """The official client, which does not try again on its own."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
def raw(server: Server) -> Iterator[httpx.Client]:
    """A plain HTTP client, for what the official one would not send."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
