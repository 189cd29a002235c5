# SPDX-License-Identifier: MIT
"""What the coordinator keeps for the next time: it is found again, and it does not grow for ever."""

import os
from pathlib import Path

import pytest

from coordinator.cache import bound_folder
from coordinator.cost_store import ModelCosts, keep_costs, recalled_costs
from coordinator.weights import download
from native import ContextParams, measure_layers
from protos.cache_folder import cache_folder
from tests.models import write_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CARAVAN_CACHE", str(tmp_path))
    return tmp_path


def make_entries(folder: Path, n: int) -> None:
    """Folders, the first of them used longest ago."""
    for number in range(n):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "file").write_bytes(b"1")
        os.utime(folder / str(number), (number, number))


def test_of_a_folder_the_last_used_stay() -> None:
    folder = cache_folder() / "kept"
    make_entries(folder, 6)
    bound_folder("kept", 3, keeping=["0"])
    assert sorted(path.name for path in folder.iterdir()) == ["0", "3", "4", "5"]
    bound_folder("nothing", 3)


def test_what_a_model_takes_is_known_the_next_time_for_the_same_context(tmp_path: Path) -> None:
    params = ContextParams(n_ctx_seq=256)
    costs = ModelCosts(measure_layers(write_model(tmp_path / "model.gguf", "llama"), params), 7)
    assert recalled_costs("identity", params) is None
    keep_costs("identity", params, costs)
    assert recalled_costs("identity", params) == costs
    assert recalled_costs("identity", ContextParams(n_ctx_seq=512)) is None
    assert recalled_costs("another", params) is None
    (file,) = (cache_folder() / "costs").iterdir()
    file.write_text(file.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert recalled_costs("identity", params) is None


def test_other_downloads_go_where_a_disk_would_be_full() -> None:
    folder = cache_folder() / "downloads"
    make_entries(folder, 3)
    download._make_room(folder / "2", 1)
    assert len(list(folder.iterdir())) == 3
    download._make_room(folder / "2", 1 << 60)
    assert [path.name for path in folder.iterdir()] == ["2"]
