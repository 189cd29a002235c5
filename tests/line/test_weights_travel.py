# SPDX-License-Identifier: MIT
"""Weights from one place to workers that have none: real coordinator, real workers, a stand-in for the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordinator import CancelledError, Distribution, LoadEvent, LoadPhase, Mesh, SamplingParams
from native import LayerRange, read_layout
from native.placement import tensors_elsewhere
from tests.coordinator.weights.stand_in import FileServer, serving
from tests.line.processes import WorkerProcess
from tests.model_kinds import Size
from tests.models import write_model

_N_LAYER = 8
_GREEDY = SamplingParams(temperature=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 19 MB."""
    path = tmp_path_factory.mktemp("model") / "travels.gguf"
    return write_model(path, "llama", size=Size(n_layer=_N_LAYER, n_embd=256), with_text=True)


@pytest.fixture
def server(model: Path) -> Iterator[FileServer]:
    place = FileServer(files={"/travels.gguf": model.read_bytes()})
    with serving(place):
        yield place


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator's."""
    monkeypatch.setenv("CARAVAN_CACHE", str(tmp_path / "coordinator"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts workers with stores of their own, as on machines of their own."""
    started: list[WorkerProcess] = []

    def start(name: str, *arguments: str) -> WorkerProcess:
        started.append(WorkerProcess(name, *arguments, cache=tmp_path / name))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()


def _open(model: str | Path, workers: list[WorkerProcess], **options: object) -> Mesh:
    chosen: dict[str, object] = {"distribution": Distribution.ON, "context": 256, "batch": 64, **options}
    return Mesh.open(model, workers=[worker.address for worker in workers], discover=False, **chosen)  # type: ignore[arg-type]


def _text(mesh: Mesh) -> str:
    return "".join(token.text for token in mesh.generate("a b c", sampling=_GREEDY, max_tokens=12))


def _own_bytes(model: Path, layers: LayerRange) -> int:
    layout = read_layout(model)
    return layout.n_bytes - sum(tensor.n_bytes for tensor in tensors_elsewhere(layout, layers))


def test_workers_read_their_own_tensors_from_the_server_and_who_may_not_takes_from_the_coordinator(
    server: FileServer, model: Path, start: Callable[..., WorkerProcess]
) -> None:
    attic, cellar = start("attic"), start("cellar", "--no-internet")
    with _open(model, [start("desk")]) as mesh:
        expected = _text(mesh)
    halves = {"attic": LayerRange(0, 4), "cellar": LayerRange(4, _N_LAYER)}
    shares: dict[str | None, list[tuple[str, int]]] = {}

    def note(event: LoadEvent) -> None:
        shares[event.worker] = [(str(share.origin), share.n_bytes) for share in event.transfer.shares]

    with _open(f"{server.url}/travels.gguf", [attic, cellar], pinned=halves, on_progress=note) as mesh:
        assert _text(mesh) == expected
    assert shares["attic"] == [("internet", _own_bytes(model, halves["attic"]))]
    assert shares["cellar"] == [("coordinator", _own_bytes(model, halves["cellar"]))]
    # The same once, and the header.
    own_bytes, n_header = sum(n_bytes for ((_, n_bytes),) in (shares["attic"], shares["cellar"])), 8 << 20
    assert own_bytes < server.n_body_bytes <= 1.01 * own_bytes + n_header


def test_each_worker_gets_its_own_tensors_once_and_others_get_them_from_it(
    server: FileServer, model: Path, start: Callable[..., WorkerProcess]
) -> None:
    url, layout = f"{server.url}/travels.gguf", read_layout(model)
    attic, cellar = start("attic", "--no-internet"), start("cellar", "--no-internet")
    with _open(model, [start("desk")]) as mesh:
        expected = _text(mesh)
    with _open(url, [attic, cellar]) as mesh:
        assert _text(mesh) == expected
    # All tensors once, the header, and the byte that asks whether there are ranges.
    n_header = layout.header_bytes[0]
    assert layout.n_bytes < server.n_body_bytes <= 1.01 * layout.n_bytes + max(2 * n_header, 8 << 20) + 1
    server.n_body_bytes = 0
    with _open(url, [attic, cellar]) as mesh:
        assert _text(mesh) == expected
    assert server.n_body_bytes == 1
    loaded: list[LoadEvent] = []
    third = start("third")
    with _open(
        url, [attic, cellar, third], pinned={"third": LayerRange(0, _N_LAYER)}, on_progress=loaded.append
    ) as mesh:
        assert _text(mesh) == expected
    assert server.n_body_bytes == 2
    sources = {share.worker for event in loaded for share in event.transfer.shares if share.n_bytes}
    assert sources == {"attic", "cellar"}


def test_a_load_that_is_called_off_is_gone_on_with(
    server: FileServer, model: Path, start: Callable[[str], WorkerProcess]
) -> None:
    url, layout = f"{server.url}/travels.gguf", read_layout(model)
    worker = start("attic")

    def stop(event: LoadEvent) -> bool:
        return event.phase is not LoadPhase.LOADING or event.transfer.fetched_bytes < layout.n_bytes / 3

    with pytest.raises(CancelledError):
        _open(url, [worker], on_progress=stop, max_bandwidth=20_000_000)
    reports: list[LoadEvent] = []
    began_s = time.monotonic()
    with _open(url, [worker], on_progress=reports.append, max_bandwidth=20_000_000) as mesh:
        assert len(_text(mesh)) > 0
    to_fetch_bytes = max(event.transfer.to_fetch_bytes for event in reports)
    assert to_fetch_bytes < layout.n_bytes * 0.8
    assert time.monotonic() - began_s > to_fetch_bytes / 20_000_000 * 0.7
