# SPDX-License-Identifier: MIT
"""Models that lie somewhere on this machine are found by what they are, and trusted as far as they were verified."""

import json
import os
import shutil
from pathlib import Path

import pytest

from protos.weights import file_stamp
from tests.models import split_model, write_model
from tests.worker.weights.fetching import Source, flip
from worker.errors import ModelGoneError
from worker.weights.files import LocalFiles
from worker.weights.parts import Part
from worker.weights.scan import Scan
from worker.weights.store import ModelStore

_NOWHERE = "/nowhere/tiny.gguf"


class Machine:
    """A worker's folder of models, and its store's."""

    def __init__(self, folder: Path) -> None:
        self.models = folder / "my models"
        self.store_folder = folder / "models"
        self.models.mkdir()

    def files(self) -> LocalFiles:
        """As another process would see them."""
        return LocalFiles([self.models], self.store_folder)

    def copy(self, source: Source, name: str) -> Path:
        """A copy of a model, deep in the folder."""
        path = self.models / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(source.layout.path, path))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_model_is_found_wherever_it_lies_and_whatever_it_is_called(
    machine: Machine, source: Source, other_source: Source
) -> None:
    files = machine.files()
    assert files.find(source.layout.identity, _NOWHERE) is None
    machine.copy(other_source, "tiny.gguf")
    path = machine.copy(source, "deep/er/Renamed.GGUF")
    found = files.find(source.layout.identity, _NOWHERE, fresh=True)
    assert found is not None
    assert (found.path, found.identity) == (path, source.layout.identity)
    at_path = files.find(source.layout.identity, str(source.layout.path))
    assert at_path is not None
    assert at_path.path == source.layout.path
    # A file of the right name at the coordinator's path may be another model.
    found = files.find(source.layout.identity, str(machine.models / "tiny.gguf"))
    assert found is not None
    assert found.path == path


def test_a_split_model_is_found_by_its_first_part_once_all_are_there(machine: Machine, tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole.gguf", "llama")
    paths = split_model(whole, machine.models / "split")
    identity = Source(paths[0]).layout.identity
    hidden = paths[1].rename(tmp_path / "hidden")
    files = machine.files()
    assert files.find(identity, _NOWHERE) is None
    files.save()
    hidden.rename(paths[1])
    found = files.find(identity, _NOWHERE)
    assert found is not None
    assert found.files == tuple(paths)


def test_links_are_followed_and_loops_end(machine: Machine, source: Source, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(source.layout.path, tmp_path / "elsewhere" / "a.gguf")
    (machine.models / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(machine.models)
    (machine.models / "self").symlink_to(machine.models)
    (machine.models / "broken.gguf").symlink_to(tmp_path / "nothing")
    found = machine.files().find(source.layout.identity, _NOWHERE)
    assert found is not None
    assert found.path == machine.models / "linked" / "a.gguf"


def test_headers_are_read_once(machine: Machine, source: Source, other_source: Source, tmp_path: Path) -> None:
    path, junk, memory = machine.copy(source, "a.gguf"), machine.models / "no model.gguf", tmp_path / "headers.json"
    junk.write_text("carrots")
    scan = Scan([machine.models], memory)
    assert [scan.identity(path) for path in scan.paths(fresh=True)] == [source.layout.identity, None]
    scan.save()
    known = json.loads(memory.read_text())
    assert set(known) == {str(path), str(junk)}
    # Whoever believes what is remembered does not see what the header says.
    known[str(path)][0] = other_source.layout.identity
    memory.write_text(json.dumps(known))
    assert Scan([], memory).identity(path) == other_source.layout.identity
    # Another time of change, and it is read again.
    stat = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert Scan([], memory).identity(path) == source.layout.identity


@pytest.mark.parametrize("garbage", ["", "[]", '{"a": 1}', '{"a": ["b", [[1]]]}', "\0"])
def test_what_is_remembered_may_be_garbage(machine: Machine, source: Source, garbage: str) -> None:
    machine.copy(source, "a.gguf")
    memory = machine.store_folder / ".files"
    memory.mkdir(parents=True)
    (memory / "headers.json").write_text(garbage)
    assert machine.files().find(source.layout.identity, _NOWHERE) is not None


def test_the_coordinators_very_file_needs_no_verifying_and_a_copy_does(machine: Machine, source: Source) -> None:
    files = machine.files()
    stamps = [Part("x", 1, 1, file_stamp(source.layout.path))]
    with files.open(source.layout, stamps) as original:
        assert original.is_original
        assert original.verified() == set(range(source.n_tensors))
    machine.copy(source, "a.gguf")
    copy = files.find(source.layout.identity, _NOWHERE, fresh=True)
    assert copy is not None
    for parts in (stamps, [Part("x", 1, 1)], []):
        with files.open(copy, parts) as another:
            assert not another.is_original
            assert another.verified() == frozenset()


def test_a_copy_is_verified_once_tensor_by_tensor(machine: Machine, source: Source) -> None:
    path = machine.copy(source, "a.gguf")
    flip(path, source.layout.tensors[3].offset_bytes)
    hashes = {tensor: source.hash(tensor) for tensor in range(5)}
    layout = machine.files().find(source.layout.identity, _NOWHERE)
    assert layout is not None
    with machine.files().open(layout, []) as file:
        assert file.verify(hashes) == {0, 1, 2, 4}
        piece = file.piece(1)
        assert os.pread(piece.fd, piece.n_bytes, piece.offset_bytes) == source.tensor(1)
    with machine.files().open(layout, []) as again:
        assert again.verified() == {0, 1, 2, 4}
        # Nothing is read again: what is remembered is not for other hashes.
        assert again.verify({0: source.hash(0), 1: bytes(32)}) == {0}


def test_a_copy_that_changes_is_verified_anew_and_not_while_it_changes(machine: Machine, source: Source) -> None:
    path = machine.copy(source, "a.gguf")
    layout = machine.files().find(source.layout.identity, _NOWHERE)
    assert layout is not None
    hashes = {1: source.hash(1)}
    with machine.files().open(layout, []) as file:
        assert file.verify(hashes) == {1}
        flip(path, source.layout.tensors[1].offset_bytes)
        with pytest.raises(ModelGoneError, match="was changed"):
            file.verify(hashes)
    with machine.files().open(layout, []) as again:
        assert again.verified() == frozenset()
        assert again.verify(hashes) == frozenset()


def test_a_model_of_a_store_is_no_file_to_be_found(tmp_path: Path, source: Source) -> None:
    store = ModelStore(tmp_path / "models", None)
    assert store.create_like(source.layout).held() == frozenset()
    assert LocalFiles([tmp_path], store.folder).find(source.layout.identity, _NOWHERE) is None
    store.close()
