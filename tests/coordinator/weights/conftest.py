# SPDX-License-Identifier: MIT
"""A model, a cache of its own for each test, and servers that have models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from coordinator.weights import patience
from coordinator.weights.errand import Errand, FetchStep
from coordinator.weights.source import WeightSource
from coordinator.weights.sources import find_source
from tests.coordinator.weights.stand_in import FileServer, Hub, serving
from tests.models import write_model

_WAIT_S = 0.01


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of four layers with a vocabulary."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny-Q8_0.gguf", "llama", n_layer=4, with_text=True)


@pytest.fixture(scope="session")
def model_bytes(model: Path) -> bytes:
    """All of it."""
    return model.read_bytes()


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache, home or token but the test's own; and no long waits."""
    monkeypatch.setenv("CARAVAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("LLAMA_CACHE", "OLLAMA_MODELS", "XDG_CACHE_HOME", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses.json"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(patience, "_FIRST_WAIT_S", _WAIT_S)


@pytest.fixture
def server() -> Iterator[FileServer]:
    """A file server."""
    place = FileServer()
    with serving(place):
        yield place


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, which redirects to a server at another port."""
    place = Hub()
    with serving(place.store), serving(place):
        # As HF_ENDPOINT sets them, once, when the library is imported.
        template = place.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", place.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield place


class Finder:
    """Finds sources as opening a mesh does, and keeps what is told meanwhile."""

    def __init__(self) -> None:
        self.told: list[FetchStep] = []
        self.found: list[WeightSource] = []

    def __call__(self, reference: str | Path) -> WeightSource:
        self.found.append(find_source(reference, Errand(self.told.append)))
        return self.found[-1]


@pytest.fixture
def find() -> Iterator[Finder]:
    """Finds sources, which are closed with the test."""
    finder = Finder()
    yield finder
    for source in finder.found:
        source.close()
