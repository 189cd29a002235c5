# SPDX-License-Identifier: MIT
"""The public face: what it promises is there, and nothing else."""

import dataclasses
import inspect
from pathlib import Path

import pytest

import coordinator
from coordinator import AsyncMesh, CaravanError, Mesh, MeshOptions, UnsupportedModelError, errors
from coordinator.mesh import OpenOptions
from tests.models import write_model


def test_everything_promised_is_there_and_once() -> None:
    assert coordinator.__all__ == list(dict.fromkeys(coordinator.__all__))
    assert all(hasattr(coordinator, name) for name in coordinator.__all__)


def test_every_error_is_public_and_of_the_one_family() -> None:
    for name, error in vars(errors).items():
        if inspect.isclass(error) and error.__module__ == errors.__name__:
            assert issubclass(error, CaravanError)
            assert name in coordinator.__all__
            assert f"── {name} " in (errors.__doc__ or "") or error is CaravanError


def test_both_faces_of_a_mesh_have_the_same_members_and_arguments() -> None:
    def members(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    # The HTTP server's own, for requests as only generations of an event loop give them.
    assert members(AsyncMesh) - {"go_on"} == members(Mesh)
    for name in ("open", "generate", "chat", "embed", "close"):
        theirs = inspect.signature(getattr(AsyncMesh, name)).parameters.values()
        ours = inspect.signature(getattr(Mesh, name)).parameters.values()
        assert [(p.name, p.kind, p.default) for p in theirs] == [(p.name, p.kind, p.default) for p in ours]


def test_the_options_that_open_takes_are_those_that_are_documented() -> None:
    documented = {option.name: option.type for option in dataclasses.fields(MeshOptions)}
    del documented["model"]
    assert {name: typed.__forward_arg__ for name, typed in OpenOptions.__annotations__.items()} == documented


def test_a_model_without_text_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="has no vocabulary"):
        Mesh.open(write_model(tmp_path / "mute.gguf", "llama"), discover=False)
