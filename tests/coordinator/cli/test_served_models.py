# SPDX-License-Identifier: MIT
"""Which models `caravan serve` has, by what is typed, a folder, and the tables of a configuration file."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import pytest

from coordinator.cli.config import read_config
from coordinator.cli.options import line_options
from coordinator.cli.root import root
from coordinator.cli.serve import command
from coordinator.cli.served_models import ServeOptions, served_models
from coordinator.resident import KnownModel
from tests.coordinator.caravan_command import DEMO_MODEL, caravan_here


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files by the names of models, and of what is none."""
    names = ("a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf", "mmproj-c.gguf", "notes.txt", "sub/d.gguf")
    (tmp_path / "sub").mkdir()
    for name in names:
        shutil.copyfile(DEMO_MODEL, tmp_path / name)
    return tmp_path


def _served(*typed: str, folder: Path | None = None, alias: str | None = None, tables: str = "") -> list[KnownModel]:
    """With the options' own defaults but for --context 512."""
    options: list[ServeOptions] = []

    def keep(**given: object) -> None:
        names = ("line", "queue", "client_limit", "request_timeout", "local")
        options.append(ServeOptions(**{name: given[name] for name in names}))  # type: ignore[arg-type]

    config = None
    if tables:
        assert folder is not None
        (folder / "config.toml").write_text(tables)
        config = read_config(folder / "config.toml", click.Context(root))
    whole = click.Command("serve", params=command.params, callback=line_options(keep))
    with whole.make_context("serve", ["--context", "512"]) as context:
        whole.invoke(context)
        return served_models(typed, alias, folder, {} if config is None else config.models, options[0])


def test_models_are_called_as_their_files_are_or_as_is_typed(folder: Path) -> None:
    models = _served("demo", f"small={folder / 'a.gguf'}", folder=folder)
    assert [model.name for model in models] == ["demo", "small", "a", "b", "d"]
    assert models[3].model == str(folder / "b-00001-of-00002.gguf")
    assert [model.name for model in _served("demo", alias="llama")] == ["llama"]
    shutil.copyfile(DEMO_MODEL, folder / "x=y.gguf")
    assert [model.name for model in _served(str(folder / "x=y.gguf"))] == ["x=y"]


def test_a_model_s_own_table_wins(folder: Path) -> None:
    tables = f"""
    [models.tale]
    model = "demo"
    parallel = 2
    draft = "lookup"
    request_timeout = 5
    layers = "desk=0-3,attic=4-7"

    [models.a]
    context = 128

    [models.typed]
    model = "{folder / "a.gguf"}"
    """
    models = {model.name: model.options for model in _served("typed", "demo", folder=folder, tables=tables)}
    assert list(models) == ["typed", "demo", "tale", "a", "b", "d"]
    assert (models["demo"]["context"], models["tale"]["context"], models["a"]["context"]) == (512, 512, 128)
    assert (models["tale"]["parallel"], models["demo"]["parallel"]) == (2, 4)
    assert (models["tale"]["draft"], models["tale"]["request_timeout"]) == ("lookup", 5)
    assert {name: len(layers) for name, layers in models["tale"]["pinned"].items()} == {"desk": 4, "attic": 4}


def test_the_same_file_in_two_places_is_one_model(folder: Path) -> None:
    assert [model.name for model in _served(str(folder / "a.gguf"), folder=folder)] == ["a", "b", "d"]


@pytest.mark.parametrize(
    ("typed", "tables", "said"),
    [
        ((), "", "there is no model: name a MODEL"),
        (("demo", "demo=a.gguf"), "", "two models are called demo, demo and demo=a.gguf: write NAME=a.gguf for one"),
        (("demo", "a.gguf", "--alias", "x"), "", "write each as NAME=MODEL"),
        (("demo", "a.gguf", "--journal", "auto"), "", "--journal keeps the answers of one MODEL"),
        (("nothing.gguf",), "", "there is no file nothing.gguf"),
        (("--models-dir", "empty"), "", "there is no GGUF file in empty"),
        (("demo",), "[models.x]\ncontext = 9", "[models.x] no model is called x"),
        (("demo",), '[models.demo]\nlisten = ":1"', 'listen = ":1": it is the server\'s'),
        (("demo",), "[models.demo]\ncontxt = 9", "is it context?"),
        (("demo",), "[models.demo]\ncontext = 9e9", "[models.demo] context = 9000000000.0"),
        (("demo",), "[models]\ncontext = 9", "write [models.NAME]"),
        (("demo",), "[models.x]\nmodel = 9", "[models.x] model = 9: write a path"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, typed: tuple[str, ...], tables: str, said: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    (folder / "config.toml").write_text(tables)
    ended = caravan_here("--config", folder / "config.toml", "serve", "--listen", "127.0.0.1:0", *typed)
    assert ended.returncode in (1, 2)
    assert said in ended.stderr
