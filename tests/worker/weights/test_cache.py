# SPDX-License-Identifier: MIT
"""`caravan cache` as a person meets it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.driver import ROOT
from tests.worker.weights.fetching import Source, flip
from worker.weights.store import ModelStore
from worker.weights.stored_model import StoredModel


class Cache:
    """A store and the command that looks after it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.store = ModelStore(folder / "models", None)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "worker.cache", *arguments],
            cwd=ROOT,
            env=os.environ | {"CARAVAN_CACHE": str(self._folder)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def models(self) -> dict[str, dict[str, object]]:
        """What `list --json` says, by name."""
        listed = self.run("list", "--json")
        assert listed.returncode == 0, listed.stderr
        return {str(model["identity"]): model for model in json.loads(listed.stdout)["models"]}

    def hold(self, source: Source, *tensors: int) -> StoredModel:
        """A model with some tensors, or all."""
        model = self.store.create_like(source.layout)
        source.fetch(model, *tensors)
        return model


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    opened = Cache(tmp_path)
    yield opened
    opened.store.close()


def test_an_empty_cache_is_said_and_nothing_is_made(cache: Cache) -> None:
    listed = cache.run("list")
    assert (listed.returncode, listed.stdout) == (0, "")
    assert str(cache.store.folder) in listed.stderr
    assert not cache.store.folder.exists()


def test_the_list_says_how_much_is_here_and_who_uses_it(cache: Cache, source: Source, other_source: Source) -> None:
    cache.hold(source, 0, 1, 2)
    with cache.hold(other_source).in_use():
        models = cache.models()
        shown = cache.run("list").stdout.splitlines()
    mine = models[source.layout.identity]
    assert (mine["n_held_tensors"], mine["n_tensors"]) == (3, source.n_tensors)
    assert mine["held_bytes"] == sum(len(source.tensor(tensor)) for tensor in range(3))
    assert (mine["is_in_use"], models[other_source.layout.identity]["is_in_use"]) == (False, True)
    assert shown[0].split()[:3] == ["ID", "MODEL", "TENSORS"]
    (line,) = [line for line in shown if line.startswith(source.layout.identity[:12])]
    assert f"3 of {source.n_tensors}" in line
    assert sum("in use" in line for line in shown) == 1


def test_verify_names_what_is_wrong_once_and_forgets_it(cache: Cache, source: Source) -> None:
    model = cache.hold(source)
    flip(model.layout.path, source.layout.tensors[4].offset_bytes)
    found = cache.run("verify", "--json")
    name = source.layout.tensors[4].name
    assert found.returncode == 1
    assert json.loads(found.stdout)["models"][0]["wrong"] == [name]
    assert f"{name} is wrong, and will be fetched again" in found.stderr
    assert model.held() == set(range(source.n_tensors)) - {4}
    again = cache.run("verify", source.layout.identity[:8])
    assert (again.returncode, again.stdout) == (0, "")
    assert "all that is kept of it is right" in again.stderr


def test_prune_deletes_what_is_named_old_or_too_much_and_never_what_is_in_use(
    cache: Cache, source: Source, other_source: Source
) -> None:
    old, new = cache.hold(source), cache.hold(other_source)
    os.utime(old.folder / "use", (0, 0))
    assert cache.run("prune", "--older-than", "10000000").returncode == 0
    assert len(cache.store.models()) == 2
    with old.in_use(counts=False):
        refused = cache.run("prune", "--older-than", "1")
    assert "is in use, and stays" in refused.stderr
    assert len(cache.store.models()) == 2
    pruned = cache.run("prune", "--to", "1500000", "--json")
    (gone,) = json.loads(pruned.stdout)["models"]
    assert gone["identity"] == source.layout.identity
    assert gone["freed_bytes"] > 1_000_000
    assert [model.identity for model in cache.store.models()] == [other_source.layout.identity]
    assert cache.run("prune", new.layout.name).returncode == 0
    assert cache.store.models() == []


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("prune",), 2, "say what to delete"),
        (("prune", "--to", "much"), 2, "'much' is no size"),
        (("prune", "no such model"), 1, "caravan cache: no model 'no such model' is kept here"),
    ],
)
def test_wrong_usage_is_told(cache: Cache, arguments: tuple[str, ...], code: int, complaint: str) -> None:
    ended = cache.run(*arguments)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert complaint in ended.stderr
