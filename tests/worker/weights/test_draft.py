# SPDX-License-Identifier: MIT
"""A model is made known by its header, once that is what it should be; else nothing is left of it."""

import itertools
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from native import ModelFileError, read_layout
from tests.models import split_model, write_model
from tests.worker.weights.conftest import OpenStore
from tests.worker.weights.fetching import Source, create, flip, left_over
from worker.errors import BadRequestError, DiskFullError
from worker.weights.draft import HeaderChunk
from worker.weights.parts import HEADERS_LIMIT_BYTES, Part

Spoil = Callable[[list[Part], list[HeaderChunk]], tuple[list[Part], list[HeaderChunk]]]


def test_a_split_model_lies_in_files_of_its_own_names(open_store: OpenStore, tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole.gguf", "llama")
    source = Source(split_model(whole, tmp_path / "split")[0])
    assert len(source.parts) == 3
    model = create(open_store(), source)
    source.fetch(model)
    assert [path.name for path in model.layout.files] == [part.file_name for part in source.parts]
    assert [path.read_bytes() for path in model.layout.files] == source.data


def test_a_header_that_was_changed_is_asked_for_again_and_the_weights_stay(
    open_store: OpenStore, source: Source
) -> None:
    store = open_store()
    model = create(store, source)
    source.fetch(model)
    for spoil in (
        lambda: flip(model.layout.path, 60),
        lambda: (model.folder / "model.json").write_text("{"),
        lambda: (model.folder / "use").unlink(),
    ):
        spoil()
        another = open_store()
        assert another.find(source.layout.identity) is None
        again = create(another, source)
        assert again.held() == set(range(source.n_tensors))
        assert again.layout.path.read_bytes() == source.data[0]


def test_a_part_that_is_missing_is_made_again_without_its_weights(open_store: OpenStore, source: Source) -> None:
    model = create(open_store(), source)
    source.fetch(model)
    model.layout.path.unlink()
    store = open_store()
    assert store.find(source.layout.identity) is None
    assert create(store, source).held() == frozenset()


_LAST = HeaderChunk(0, b"more")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda parts, chunks: (parts, chunks[:-1]), "ends after"),
        (lambda parts, chunks: (parts, [*chunks, _LAST]), "more than"),
        (lambda parts, chunks: (parts, [HeaderChunk(0, chunks[0].data[::-1]), *chunks[1:]]), "another model"),
        (lambda parts, chunks: (parts, [HeaderChunk(1, chunks[0].data), *chunks[1:]]), "ends after 0"),
        (lambda parts, chunks: (parts, [HeaderChunk(0, b""), *chunks]), "ends after 0"),
        (lambda parts, chunks: ([Part("a/b", 9, 8)], chunks), "no file name"),
        (lambda parts, chunks: ([Part("..", 9, 8)], chunks), "no file name"),
        (lambda parts, chunks: ([Part("x" * 300, 9, 8)], chunks), "no file name"),
        (lambda parts, chunks: ([Part("a\0b", 9, 8)], chunks), "no file name"),
        (lambda parts, chunks: ([Part("a", 9, 10)], chunks), "no file is like that"),
        (lambda parts, chunks: ([Part("a", 9, 0)], chunks), "no file is like that"),
        (lambda parts, chunks: ([Part("a", 1 << 63, 9)], chunks), "no file is like that"),
        (lambda parts, chunks: ([Part("a", 9, 8, "0" * 65)], chunks), "no stamp has so many"),
        (lambda parts, chunks: ([Part("a", 1 << 40, HEADERS_LIMIT_BYTES + 1)], chunks), "256 MiB"),
        (lambda parts, chunks: ([Part("a", 9, 8), Part("A", 9, 8)], chunks), "one name"),
        (lambda parts, chunks: ([], chunks), "1 to 1024 files"),
    ],
)
def test_what_is_no_header_of_that_model_leaves_nothing_behind(
    open_store: OpenStore, source: Source, spoil: Spoil, complaint: str
) -> None:
    store = open_store()
    parts, chunks = spoil(source.parts, source.chunks())
    with pytest.raises(BadRequestError, match=complaint):
        store.create(source.layout.identity, parts, chunks)
    assert not store.folder.exists() or left_over(store) == []
    assert store.models() == []


def test_a_header_of_an_impossible_size_allocates_nothing(open_store: OpenStore, source: Source) -> None:
    store = open_store()
    (part,) = source.parts
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadRequestError, match="ends after"):
        store.create(source.layout.identity, [Part(part.file_name, 1 << 60, 200 << 20)], source.chunks())
    with pytest.raises(DiskFullError, match="cannot lie in"):
        store.create(source.layout.identity, [Part(part.file_name, 1 << 60, part.n_header_bytes)], source.chunks())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10
    assert left_over(store) == []


def test_a_model_that_ends_before_its_tensors_is_refused(open_store: OpenStore, source: Source) -> None:
    store = open_store()
    (part,) = source.parts
    with pytest.raises(ModelFileError, match=r"^tiny.gguf: the file is cut off"):
        store.create(
            source.layout.identity, [Part(part.file_name, part.n_header_bytes, part.n_header_bytes)], source.chunks()
        )
    assert left_over(store) == []


def test_parts_that_the_header_names_otherwise_are_refused(open_store: OpenStore, tmp_path: Path) -> None:
    source = Source(split_model(write_model(tmp_path / "whole.gguf", "llama"), tmp_path / "split")[0])
    names = [part.file_name for part in source.parts]
    for renamed in (["a.gguf", *names[1:]], [names[0], "b.gguf", names[2]], [names[0], names[2], names[1]]):
        parts = [Part(name, p.n_bytes, p.n_header_bytes) for name, p in zip(renamed, source.parts, strict=True)]
        with pytest.raises((BadRequestError, ModelFileError)):
            open_store().create(source.layout.identity, parts, source.chunks())


def test_two_that_make_a_model_known_at_once_share_it(open_store: OpenStore, source: Source) -> None:
    first, second = open_store(), open_store()
    half = itertools.islice(source.chunks(), 0, None)

    def chunks_with_another_in_between() -> Iterator[HeaderChunk]:
        yield next(half)
        source.fetch(create(second, source), 1)
        yield from half

    model = first.create(source.layout.identity, source.parts, chunks_with_another_in_between())
    assert model.held() == {1}
    assert left_over(first) == []


def test_what_killed_processes_left_half_made_is_cleaned_up(open_store: OpenStore, source: Source) -> None:
    store = open_store()
    store.folder.mkdir()
    for name in (".draft-x", ".gone-y"):
        (store.folder / name / "parts").mkdir(parents=True)
        (store.folder / name / "use").touch()
    create(store, source)
    assert left_over(store) == []


def test_a_model_is_made_known_from_a_file_of_it(open_store: OpenStore, source: Source) -> None:
    model = open_store().create_like(source.layout)
    assert read_layout(model.layout.path).tensors == source.layout.tensors


def test_a_file_system_without_holes_is_said_with_what_it_takes(
    open_store: OpenStore, source: Source, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(open_store(), source)
    assert caplog.messages == []

    def fill(path: Path, n_bytes: int) -> None:
        """As a FAT lengthens a file."""
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, n_bytes)

    monkeypatch.setattr("worker.weights.disk.os.truncate", fill)
    (part,) = source.parts
    large = Part(part.file_name, 30 << 20, part.n_header_bytes)
    store = open_store()
    store.remove(source.layout.identity)
    store.create(source.layout.identity, [large], source.chunks())
    assert "keeps no holes in files: there tiny.gguf takes all of its 30.0 MiB" in caplog.text
