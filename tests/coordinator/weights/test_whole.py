# SPDX-License-Identifier: MIT
"""A model that is to be loaded on this machine, wherever it comes from."""

from pathlib import Path

from coordinator.weights.errand import Errand, FetchStep
from coordinator.weights.whole import whole_file
from tests.coordinator.weights.conftest import Finder
from tests.coordinator.weights.stand_in import FileServer
from tests.models import split_model


def test_a_model_of_this_machine_stays_where_it_is(model: Path, find: Finder) -> None:
    assert whole_file(find(model), Errand(lambda _: None)) == model


def test_all_parts_of_a_model_on_a_server_are_fetched_once(
    server: FileServer, tmp_path: Path, model: Path, find: Finder
) -> None:
    parts = split_model(model, tmp_path / "big")
    server.files.update({f"/{part.name}": part.read_bytes() for part in parts})
    source = find(f"{server.url}/{parts[0].name}")
    steps: list[FetchStep] = []
    path = whole_file(source, Errand(steps.append))
    assert [path.with_name(part.name).read_bytes() for part in parts] == [part.read_bytes() for part in parts]
    assert steps[-1].done_bytes == steps[-1].total_bytes == sum(part.stat().st_size for part in parts)
    n_fetched = server.n_body_bytes
    assert whole_file(source, Errand(steps.append)) == path
    assert server.n_body_bytes == n_fetched
