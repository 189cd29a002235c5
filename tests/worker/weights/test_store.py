# SPDX-License-Identifier: MIT
"""What was fetched stays, is right or is not held, is shared, and leaves when others need the room."""

import itertools
import os
import random
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from native import ModelFileError, read_layout
from tests.model_kinds import Size
from tests.models import split_model, write_model
from tests.worker.weights.conftest import OpenStore
from tests.worker.weights.fetching import Source, flip
from worker.errors import BadRequestError, DiskFullError, ModelGoneError, WrongBytesError
from worker.weights import disk
from worker.weights.draft import HeaderChunk
from worker.weights.parts import HEADERS_LIMIT_BYTES, Part
from worker.weights.store import ModelStore
from worker.weights.stored_model import StoredModel
from worker.weights.writer import TensorWriter

Spoil = Callable[[list[Part], list[HeaderChunk]], tuple[list[Part], list[HeaderChunk]]]


def create(store: ModelStore, source: Source) -> StoredModel:
    """The model, known to the store."""
    return store.create(source.layout.identity, source.parts, source.chunks())


def must_begin(model: StoredModel, tensor: int) -> TensorWriter:
    """The right to write it, which must be free."""
    writer = model.begin(tensor)
    assert writer is not None
    return writer


def left_over(store: ModelStore) -> list[str]:
    """What lies in the store's folder beside models."""
    return [path.name for path in store.folder.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def test_all_that_is_fetched_is_the_file_again_and_is_there_for_the_next(open_store: OpenStore, source: Source) -> None:
    store = open_store()
    assert store.find(source.layout.identity) is None
    model = create(store, source)
    assert model.layout.tensors == source.layout.tensors
    assert model.held() == frozenset()
    source.fetch(model)
    assert [path.read_bytes() for path in model.layout.files] == source.data
    again = open_store().find(source.layout.identity)
    assert again is not None
    assert again.held() == set(range(source.n_tensors))
    assert again.hash_of(3) == source.hash(3)
    assert again.begin(3) is None
    with again.in_use():
        piece = again.piece(3)
        assert os.pread(piece.fd, piece.n_bytes, piece.offset_bytes) == source.tensor(3)
    assert list((model.folder / "claims").iterdir()) == []


def test_what_is_not_fetched_takes_no_room(open_store: OpenStore, source: Source) -> None:
    model = create(open_store(), source)
    source.fetch(model, 3)
    whole = sum(map(len, source.data))
    assert disk.taken_bytes(model.folder) < whole / 4 < model.layout.path.stat().st_size == whole


def test_a_split_model_lies_in_files_of_its_own_names(open_store: OpenStore, tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole.gguf", "llama")
    source = Source(split_model(whole, tmp_path / "split")[0])
    assert len(source.parts) == 3
    model = create(open_store(), source)
    source.fetch(model)
    assert [path.name for path in model.layout.files] == [part.file_name for part in source.parts]
    assert [path.read_bytes() for path in model.layout.files] == source.data


def test_a_broken_fetch_goes_on_where_it_was(open_store: OpenStore, source: Source) -> None:
    store = open_store()
    model = create(store, source)
    data = source.tensor(2)
    with must_begin(model, 2) as writer:
        assert not writer.was_resumed
        writer.write(100, data[100:1000])
        writer.write(2000, data[2000:])
    again = create(open_store(), source)
    with must_begin(again, 2) as writer:
        assert writer.was_resumed
        assert writer.missing() == [(0, 100), (1000, 2000)]
        source.write(writer, 2, order=random.Random())
        writer.finish(source.hash(2))
    assert model.held() == {2}
    assert source.wrong(model) == []


def test_pieces_come_from_many_threads_and_none_twice(open_store: OpenStore, tmp_path: Path) -> None:
    source = Source(write_model(tmp_path / "wide.gguf", "llama", n_layer=1, size=Size(n_layer=1, n_embd=512)))
    tensor = max(range(source.n_tensors), key=lambda at: source.layout.tensors[at].n_bytes)
    data, size = source.tensor(tensor), 10_000
    model = create(open_store(), source)
    taken: list[int] = []
    with must_begin(model, tensor) as writer:

        def write_all(seed: int) -> None:
            starts = list(range(0, len(data), size))
            random.Random(seed).shuffle(starts)
            taken.extend(at for at in starts if writer.write(at, data[at : at + size]))

        threads = [threading.Thread(target=write_all, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == list(range(0, len(data), size))
        writer.finish(source.hash(tensor))
    assert model.held() == {tensor}
    assert source.wrong(model) == []


def test_bytes_that_are_not_what_their_hash_says_are_never_held(open_store: OpenStore, source: Source) -> None:
    model = create(open_store(), source)
    data = bytearray(source.tensor(1))
    data[17] ^= 1
    with must_begin(model, 1) as writer:
        writer.write(0, memoryview(data))
        with pytest.raises(WrongBytesError, match=source.layout.tensors[1].name):
            writer.finish(source.hash(1))
        assert writer.missing() == [(0, len(data))]
        source.write(writer, 1, order=random.Random())
        writer.finish(source.hash(1))
    assert model.held() == {1}
    assert source.wrong(model) == []


def test_a_tensor_with_gaps_and_pieces_outside_of_it_are_refused(open_store: OpenStore, source: Source) -> None:
    data = source.tensor(1)
    with must_begin(create(open_store(), source), 1) as writer:
        for offset, n_bytes in ((-1, 1), (len(data), 1), (len(data) - 1, 2)):
            with pytest.raises(ValueError, match="is not in"):
                writer.write(offset, memoryview(bytes(n_bytes)))
        writer.write(1, data[1:])
        with pytest.raises(ValueError, match="not complete"):
            writer.finish(source.hash(1))


def test_one_writer_has_a_tensor_and_the_next_waits_for_it(open_store: OpenStore, source: Source) -> None:
    first, second = create(open_store(), source), create(open_store(), source)
    writer = must_begin(first, 1)
    assert first.begin(1) is None
    assert second.begin(1) is None
    assert not second.is_held(1)
    must_begin(second, 2).close()

    def finish() -> None:
        time.sleep(0.2)
        with writer:
            source.write(writer, 1, order=random.Random())
            writer.finish(source.hash(1))

    thread = threading.Thread(target=finish)
    thread.start()
    assert second.begin(1, wait_s=20) is None
    assert second.is_held(1)
    thread.join()


def test_a_flipped_bit_is_found_named_and_fetched_again(open_store: OpenStore, source: Source) -> None:
    model = create(open_store(), source)
    source.fetch(model)
    flip(model.layout.path, source.layout.tensors[5].offset_bytes + 3)
    assert [tensor for tensor in range(source.n_tensors) if not model.verify(tensor)] == [5]
    for store in (open_store(), open_store(boot="another start")):
        again = store.find(source.layout.identity)
        assert again is not None
        assert 5 not in again.held()
    source.fetch(model, 5)
    assert model.verify(5)
    assert model.layout.path.read_bytes() == source.data[0]


@pytest.mark.parametrize("while_open", [True, False])
def test_a_file_that_is_cut_off_loses_what_was_cut_off(open_store: OpenStore, source: Source, while_open: bool) -> None:
    store = open_store()
    model = create(store, source)
    source.fetch(model)
    at = source.layout.tensors[40].offset_bytes + 10
    os.truncate(model.layout.path, at)
    again = (store if while_open else open_store()).find(source.layout.identity)
    assert again is not None
    beyond = {i for i, tensor in enumerate(source.layout.tensors) if tensor.offset_bytes + tensor.n_bytes > at}
    assert again.held() == set(range(source.n_tensors)) - beyond
    assert source.wrong(again) == []
    source.fetch(again, *beyond)
    assert again.layout.path.read_bytes() == source.data[0]


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


def test_after_a_power_cut_it_has_what_reached_the_disk_and_looks_at_the_rest(
    open_store: OpenStore, source: Source
) -> None:
    store = open_store()
    model = create(store, source)
    source.fetch(model, 1, 2)
    store.flush()
    # What the syncing thread would bring to the disk next.
    store.close()
    model = create(open_store(), source)
    source.fetch(model, 3, 4)
    lost = source.layout.tensors[4]
    with model.layout.path.open("r+b") as file:
        file.seek(lost.offset_bytes)
        file.write(bytes(lost.n_bytes))
    after = open_store(boot="after the power cut").find(source.layout.identity)
    assert after is not None
    assert after.held() >= {1, 2}
    if after.held() == {1, 2}:  # or the thread was quicker than this test
        assert after.begin(3) is None
        assert after.held() == {1, 2, 3}
        with must_begin(after, 4) as writer:
            assert not writer.was_resumed
            assert writer.missing() == [(0, lost.n_bytes)]


def test_ranges_of_a_broken_fetch_do_not_outlive_the_machines_start(open_store: OpenStore, source: Source) -> None:
    with must_begin(create(open_store(), source), 1) as writer:
        writer.write(0, source.tensor(1)[:10])
    with must_begin(create(open_store(boot="another start"), source), 1) as writer:
        assert not writer.was_resumed


def test_the_least_recently_used_make_room_and_what_is_in_use_stays(
    open_store: OpenStore, source: Source, other_source: Source, tmp_path: Path
) -> None:
    third_source = Source(write_model(tmp_path / "third.gguf", "llama", n_layer=6))
    limit_bytes = 3_000_000
    store, another = open_store(limit_bytes), open_store(limit_bytes)
    old, newer = create(store, source), create(store, other_source)
    with old.in_use():
        source.fetch(old, *range(1, source.n_tensors))
    other_source.fetch(newer)
    os.utime(newer.folder / "use", (0, 0))
    os.utime(old.folder / "use", (1, 1))
    needed = sum(map(len, third_source.data))
    with newer.in_use():
        in_use = {listed.identity: listed.is_in_use for listed in another.models()}
        assert in_use == {source.layout.identity: False, other_source.layout.identity: True}
        another.make_room(needed)
        assert another.find(source.layout.identity) is None
        assert newer.held() == set(range(other_source.n_tensors))
        with pytest.raises(ModelGoneError, match="made room"), old.in_use():
            pass
        with pytest.raises(ModelGoneError):
            old.begin(0)
        with pytest.raises(DiskFullError) as caught:
            another.make_room(limit_bytes)
    assert caught.value.needed_bytes == limit_bytes
    assert 0 < caught.value.free_bytes < limit_bytes
    assert "--cache-size" in str(caught.value)
    assert [listed.identity for listed in another.models()] == [other_source.layout.identity]
    assert left_over(store) == []


def test_a_limit_that_cannot_be_kept_deletes_nothing(open_store: OpenStore, source: Source) -> None:
    store = open_store(2_000_000)
    source.fetch(create(store, source))
    with pytest.raises(DiskFullError):
        store.make_room(5_000_000)
    assert len(store.models()) == 1


def test_room_that_was_made_is_room_on_the_disk(open_store: OpenStore, source: Source) -> None:
    store = open_store()
    model = create(store, source)
    source.fetch(model)
    store.flush()
    remover = open_store()
    assert remover.remove(source.layout.identity) > 1_000_000
    # Another process that knew the model holds none of its files open.
    deleted = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
    assert not [path for path in deleted if path.endswith("tiny.gguf (deleted)")]


def _is_open(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}")


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
