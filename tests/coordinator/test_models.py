# SPDX-License-Identifier: MIT
"""What a person writes for a model, and the file that is meant."""

from pathlib import Path

import pytest

from coordinator.errors import ModelError, ModelNotFoundError
from coordinator.models import resolve_model


def test_demo_is_the_model_inside_the_package() -> None:
    model = resolve_model("demo")
    assert model.name == "demo"
    assert model.path.read_bytes()[:4] == b"GGUF"


def test_a_path_is_its_file(tmp_path: Path) -> None:
    path = tmp_path / "Tiny-1B.Q4_0.gguf"
    path.touch()
    model = resolve_model(str(path))
    assert (model.name, model.path) == ("Tiny-1B.Q4_0", path)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.gguf").touch()
    assert resolve_model("~/a.gguf").path == tmp_path / "a.gguf"


def test_any_part_of_a_split_model_stands_for_its_first(tmp_path: Path) -> None:
    for part in (1, 2, 3):
        (tmp_path / f"big-0000{part}-of-00003.gguf").touch()
    model = resolve_model(tmp_path / "big-00002-of-00003.gguf")
    assert (model.name, model.path.name) == ("big", "big-00001-of-00003.gguf")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"there is no file .*nowhere\.gguf"):
        resolve_model(tmp_path / "nowhere.gguf")


def test_a_folder_is_refused_with_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "inside.gguf").touch()
    with pytest.raises(ModelError, match=r"is a folder: name a GGUF file in it, such as inside\.gguf"):
        resolve_model(tmp_path)
