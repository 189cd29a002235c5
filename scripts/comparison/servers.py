# SPDX-License-Identifier: MIT
"""The two servers with the same model, and the same contexts and slots."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmark.processes import free_port, process
from comparison.peer import Peer
from llama_source import ROOT, run
from tests.models import write_model

N_SLOTS = 2
N_CTX = 1024
"""Tokens of a slot."""
_RERANKER_N_CTX = 512
"""The same of the reranker, which was made for no more."""

_DEMO = ROOT / "coordinator" / "models" / "demo.gguf"
_TEMPLATE = Path("models", "templates", "Qwen-Qwen2.5-7B-Instruct.jinja")
"""In llama.cpp's source. It knows of tools, and writes the special tokens that the demo model has."""

_ALIAS = "compared"

_KEY = "a-key-of-sixteen-or-more"
_NEW_METADATA = "gguf.scripts.gguf_new_metadata"
_START_S = 60.0
_ALONE = {"CARAVAN_CONFIG": "/dev/null"}


def compared_model(work: Path, source: Path) -> Path:
    """The demo model with a chat template of llama.cpp's tests; written anew each time."""
    path = work / "compared.gguf"
    template = (source / _TEMPLATE).read_text(encoding="utf-8")
    run([sys.executable, "-m", _NEW_METADATA, "--force", "--chat-template", template, str(_DEMO), str(path)])
    return path


def reranker(work: Path) -> Path:
    """A tiny BERT with a ranking head and random weights; written anew each time."""
    return write_model(work / "reranker.gguf", "bert-ranking", with_text=True)


@contextlib.contextmanager
def both_servers(llama_server: Path, model: Path, *, ranks: bool = False) -> Iterator[tuple[Peer, Peer]]:
    """llama-server, and ours over two workers of its own.

    Args:
        ranks: The model is the reranker.
    """
    n_ctx, pooling = (_RERANKER_N_CTX, "rank") if ranks else (N_CTX, "mean")
    theirs, ours = (f"127.0.0.1:{free_port()}" for _ in range(2))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        key_file = Path(folder, "key")
        key_file.write_text(_KEY)
        key_file.chmod(0o600)
        stack.enter_context(
            process([str(llama_server), "--model", str(model), *_their_options(theirs, n_ctx, pooling)])
        )
        command = [
            sys.executable,
            "-m",
            "coordinator.cli",
            "serve",
            str(model),
            *_our_options(ours, n_ctx, pooling, key_file),
        ]
        stack.enter_context(process(command, environment=_ALONE))
        peers = [Peer(f"http://{address}", _KEY) for address in (theirs, ours)]
        for peer in peers:
            stack.callback(peer.close)
            _wait_until_ready(peer.url)
        yield peers[0], peers[1]


def _their_options(address: str, n_ctx: int, pooling: str) -> list[str]:
    host, _, port = address.partition(":")
    options = ["--alias", _ALIAS, "--host", host, "--port", port, "--api-key", _KEY]
    options += ["--ctx-size", str(N_SLOTS * n_ctx), "--parallel", str(N_SLOTS), "--no-kv-unified", "--threads", "1"]
    options += ["--flash-attn", "off", "--cache-ram", "0"]
    return [*options, "--jinja", "--metrics", "--slots", "--embeddings", "--pooling", pooling]


def _our_options(address: str, n_ctx: int, pooling: str, key_file: Path) -> list[str]:
    options = [
        "--pooling",
        pooling,
        "--alias",
        _ALIAS,
        "--listen",
        address,
        "--require-key",
        "--api-key-file",
        str(key_file),
    ]
    options += ["--context", str(n_ctx), "--parallel", str(N_SLOTS)]
    return [*options, "--local", "2", "--discovery-timeout", "0"]


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").status_code == httpx.codes.OK:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"no server at {url} is ready after {_START_S:g} s")
        time.sleep(0.1)
