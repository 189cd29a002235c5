# SPDX-License-Identifier: MIT
"""Models to fetch, and stores to bring them to."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.models import write_model
from tests.worker.weights.fetching import Source
from worker.weights.store import ModelStore

OpenStore = Callable[..., ModelStore]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A model of 75 tensors and 1.2 MB."""
    return Source(write_model(tmp_path_factory.mktemp("source") / "tiny.gguf", "llama", n_layer=8))


@pytest.fixture(scope="session")
def other_source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Another one."""
    return Source(write_model(tmp_path_factory.mktemp("other") / "tiny.gguf", "llama", n_layer=7))


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the store of a test, as another process would each time."""
    stores: list[ModelStore] = []

    def open_it(limit_bytes: int | None = None, boot: str = "this start") -> ModelStore:
        stores.append(ModelStore(tmp_path / "models", limit_bytes, boot))
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()
