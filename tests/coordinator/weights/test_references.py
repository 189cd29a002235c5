# SPDX-License-Identifier: MIT
"""What a person may write for a model, and what is meant by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordinator.errors import ModelError, ModelNotFoundError, SourceError
from coordinator.weights.references import (
    FileReference,
    HubReference,
    OllamaReference,
    Reference,
    UrlReference,
    name_of,
    parse_reference,
    part_names,
)
from coordinator.weights.sources import model_name
from tests.coordinator.weights.conftest import Finder
from tests.coordinator.weights.reading import read_tensor, true_tensor

_PAGE = "https://huggingface.co/llamas/tiny-GGUF/blob/main/Q8_0/tiny-Q8_0.gguf?download=true"


@pytest.mark.parametrize(
    ("text", "reference", "name"),
    [
        ("demo", FileReference("demo"), "demo"),
        ("models/a.b.gguf", FileReference("models/a.b.gguf"), "a.b"),
        ("./hf:a/b", FileReference("./hf:a/b"), "b"),
        ("https://host/a%20b.gguf?key=1", UrlReference("https://host/a%20b.gguf?key=1"), "a b"),
        ("http://nas:8000/m/big-00001-of-00003.gguf", UrlReference("http://nas:8000/m/big-00001-of-00003.gguf"), "big"),
        ("https://host/a/..", UrlReference("https://host/a/.."), "model"),
        ("hf:llamas/tiny-GGUF", HubReference("llamas/tiny-GGUF"), "llamas/tiny-GGUF"),
        ("hf:llamas/tiny-GGUF:Q8_0", HubReference("llamas/tiny-GGUF", "Q8_0"), "llamas/tiny-GGUF:Q8_0"),
        ("hf:llamas/tiny-GGUF:Q8_0/a.gguf", HubReference("llamas/tiny-GGUF", "Q8_0/a.gguf"), "a"),
        (_PAGE, HubReference("llamas/tiny-GGUF", "Q8_0/tiny-Q8_0.gguf", "main"), "tiny-Q8_0"),
        ("ollama:llama3.2:1b", OllamaReference("llama3.2:1b"), "llama3.2:1b"),
    ],
)
def test_a_reference_is_what_it_begins_like(text: str, reference: Reference, name: str) -> None:
    assert parse_reference(text) == reference
    assert name_of(reference) == name


def test_a_path_object_is_a_path_whatever_it_is_called() -> None:
    assert parse_reference(Path("hf:a")) == FileReference(Path("hf:a"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hf:tiny", "write hf:OWNER/REPO, hf:OWNER/REPO:QUANT or :FILE.gguf"),
        ("hf:a/b:c:d", "write hf:OWNER/REPO"),
        ("https:///a.gguf", "write https://HOST/PATH/model.gguf"),
        ("https://host:port/a.gguf", "write https://HOST/PATH/model.gguf"),
        ("ollama:", "such as ollama:llama3.2:1b"),
    ],
)
def test_what_begins_like_a_reference_and_is_none_says_how_one_is_written(text: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        parse_reference(text)


def test_a_model_cannot_be_in_any_number_of_parts() -> None:
    assert part_names("a-00002-of-00002.gguf") == ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]
    with pytest.raises(ModelError, match="one of 99999 files; a model has at most 1000"):
        part_names("a-00001-of-99999.gguf")


def test_the_name_of_a_file_is_told_only_if_it_is_there(model: Path) -> None:
    assert model_name(model) == "tiny-Q8_0"
    with pytest.raises(ModelNotFoundError, match=r"there is no file nowhere\.gguf"):
        model_name("nowhere.gguf")


def test_a_file_name_that_another_program_has_a_model_by_is_told(
    find: Finder, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent.parent)
    elsewhere = Path.home() / ".lmstudio" / "models" / "llamas" / "tiny" / "other-Q8_0.gguf"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.touch()
    with pytest.raises(ModelNotFoundError, match=f"there is no file other-Q8_0.gguf here; did you mean {elsewhere}"):
        find("other-Q8_0.gguf")
    with pytest.raises(ModelNotFoundError, match=r"there is no file .*third\.gguf: give the path"):
        find("third.gguf")


class _Ollama:
    """Ollama's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, where: str, model: Path, *more: dict[str, str], digest: str = "sha256:" + "ab" * 32) -> Path:
        """A model by its place among the manifests; where its blob is to be."""
        manifest = self.folder / "manifests" / where
        manifest.parent.mkdir(parents=True, exist_ok=True)
        layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": digest}, *more]
        manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
        blob = self.folder / "blobs" / digest.replace(":", "-")
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(model.read_bytes())
        return blob


@pytest.fixture
def ollama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Ollama:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    return _Ollama(tmp_path / "ollama")


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("llama3.2:1b", "registry.ollama.ai/library/llama3.2/1b"),
        ("llama3.2", "registry.ollama.ai/library/llama3.2/latest"),
        ("somebody/llama:q8", "registry.ollama.ai/somebody/llama/q8"),
        ("hf.co/llamas/tiny-GGUF:Q8_0", "hf.co/llamas/tiny-GGUF/Q8_0"),
    ],
)
def test_a_model_of_ollama_is_its_blob(find: Finder, ollama: _Ollama, model: Path, name: str, where: str) -> None:
    blob = ollama.add(where, model, {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:00"})
    source = find(f"ollama:{name}")
    assert (source.name, source.told_path) == (name, str(blob))


def test_a_model_that_ollama_does_not_have_is_told_with_what_it_has(find: Finder, ollama: _Ollama, model: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="Ollama has no gemma:2b on this machine: `ollama pull gemma:2b`"):
        find("ollama:gemma:2b")
    ollama.add("registry.ollama.ai/library/llama3.2/1b", model)
    with pytest.raises(ModelNotFoundError, match=r"Ollama has no gemma:2b on this machine: it has ollama:llama3\.2:1b"):
        find("ollama:gemma:2b")


def test_what_ollama_has_and_cannot_be_run_is_refused(find: Finder, ollama: _Ollama, model: Path) -> None:
    adapter = {"mediaType": "application/vnd.ollama.image.adapter", "digest": "sha256:00"}
    ollama.add("registry.ollama.ai/library/tuned/latest", model, adapter)
    with pytest.raises(ModelError, match="ollama:tuned has an adapter beside its model"):
        find("ollama:tuned")
    ollama.add("registry.ollama.ai/library/torn/latest", model).unlink()
    with pytest.raises(ModelNotFoundError, match=r"its file .* is missing: `ollama pull torn` mends it"):
        find("ollama:torn")
    manifest = ollama.folder / "manifests" / "registry.ollama.ai" / "library" / "torn" / "latest"
    manifest.write_text('{"layers": 3}')
    with pytest.raises(ModelError, match=r"Ollama's manifest of torn .* cannot be read"):
        find("ollama:torn")
    evil = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../../etc/passwd"}
    manifest.write_text(json.dumps({"layers": [evil]}))
    with pytest.raises(ModelError, match="is not one GGUF file"):
        find("ollama:torn")


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/../b:c", "a:b/c", "a//b", "a/b/c/d:e", "x:" + "y" * 300])
def test_no_name_leads_out_of_ollamas_folder(find: Finder, ollama: _Ollama, name: str) -> None:
    with pytest.raises(ModelError, match="is no name of Ollama's"):
        find(f"ollama:{name}")


def test_a_file_that_changes_is_no_source_any_more(find: Finder, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(model.read_bytes())
    source = find(path)
    assert source.told_path == str(path)
    assert all(part.stamp for part in source.parts)
    assert read_tensor(source, "output.weight") == true_tensor(source, "output.weight", model.read_bytes())
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(SourceError, match=r"mine\.gguf changed after it was opened: leave it as it is"):
        read_tensor(source, "output.weight")
    path.unlink()
    with pytest.raises(SourceError, match=r"mine\.gguf cannot be read: No such file"):
        read_tensor(source, "output.weight")
