# SPDX-License-Identifier: MIT
"""Models that the native room's tests share, written once."""

from pathlib import Path

import pytest

from tests.models import write_model

DEMO = Path(__file__).parents[2] / "coordinator" / "models" / "demo.gguf"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of four layers with a vocabulary."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny.gguf", "llama", n_layer=4, with_text=True)


@pytest.fixture(scope="session")
def demo() -> Path:
    """The small real model that the package ships: a trained vocabulary and a chat template."""
    return DEMO
