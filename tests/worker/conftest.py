# SPDX-License-Identifier: MIT
"""Workers and models for the worker's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from native import read_layout
from tests.models import write_model
from tests.worker.driver import (
    FedStream,
    WorkerProcess,
    context_params,
    load_request,
    stage_spec,
)
from tests.worker.heavy_model import write_heavy_model

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of eight layers."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return write_model(path, "llama", n_layer=8, with_text=True)


@pytest.fixture(scope="session")
def heavy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes a moment to load and to compute; zeros, which lie in a file that is mostly a hole."""
    return write_heavy_model(tmp_path_factory.mktemp("heavy") / "heavy.gguf")


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    """Starts workers, without mDNS unless asked; each must end well when the test does, or be dead already."""
    workers: list[WorkerProcess] = []

    def start(*arguments: str, mdns: bool = False) -> WorkerProcess:
        workers.append(WorkerProcess(*arguments, "--threads", "1", *(() if mdns else ("--no-mdns",))))
        return workers[-1]

    yield start
    endings = [(worker.name, worker.was_killed, *worker.stop()) for worker in workers]
    for name, was_killed, code, complaints in endings:
        assert was_killed or code == 0, f"{name} ended with {code}: {complaints}"
        assert "Traceback" not in complaints


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    """Two workers that a module's tests share; each test loads a session of its own."""
    # One thread each: on a machine with few cores, several that wait for each other are slower.
    options = ("--no-mdns", "--threads", "1", "--name")
    workers = WorkerProcess(*options, "one"), WorkerProcess(*options, "two")
    yield workers
    endings = [worker.stop() for worker in workers]
    assert [code for code, _ in endings] == [0, 0], endings


@pytest.fixture
def worker(pair: tuple[WorkerProcess, WorkerProcess]) -> WorkerProcess:
    """One of the pair, with nothing loaded."""
    worker = pair[0]
    worker.unload(worker.health().session_id)
    return worker


class Lines:
    """Loads lines of two stages over a pair, one epoch after another."""

    def __init__(self, pair: tuple[WorkerProcess, WorkerProcess], model: Path, n_layer: int) -> None:
        self.first, self.last = pair
        self.model = model
        self.n_layer = n_layer
        self._open: list[FedStream] = []
        self._sessions: set[str] = set()

    def load(self, session_id: str, epoch: int = 1, **context: object) -> None:
        """Both halves of the model, connected."""
        self._sessions.add(session_id)
        params = context_params(**context)
        cut = self.n_layer // 2
        behind = stage_spec(self.model, cut, self.n_layer, params)
        before = stage_spec(self.model, 0, cut, params)
        self.last.load(load_request(behind, session_id=session_id, epoch=epoch, first_worker=self.first))
        self.first.load(load_request(before, session_id=session_id, epoch=epoch, next_worker=self.last))

    def open(self, session_id: str, epoch: int = 1, **context: object) -> FedStream:
        """A fresh line with its streams open."""
        self.load(session_id, epoch, **context)
        return self.stream(session_id, epoch)

    def stream(self, session_id: str, epoch: int = 1) -> FedStream:
        """Streams into what is loaded."""
        self._open.append(FedStream(self.first, self.last, session_id, epoch))
        return self._open[-1]

    def close(self) -> None:
        """Goes away from whatever is still open, and waits until the workers have noticed."""
        for stream in self._open:
            stream.cancel()
        for session_id in self._sessions:
            self.first.unload(session_id)
            self.last.unload(session_id)


@pytest.fixture
def lines(pair: tuple[WorkerProcess, WorkerProcess], model: Path) -> Iterator[Lines]:
    """Lines of two stages over the module's pair of workers."""
    opened = Lines(pair, model, read_layout(model).n_layer)
    yield opened
    opened.close()
