# SPDX-License-Identifier: MIT
"""A tensor that was fetched is right or is not held, whoever fetched it and whatever became of it since."""

import errno
import os
import random
import threading
import time
from pathlib import Path

import pytest

from tests.model_kinds import Size
from tests.models import write_model
from tests.worker.weights.conftest import OpenStore
from tests.worker.weights.fetching import Source, create, flip
from worker.errors import WrongBytesError
from worker.weights import disk
from worker.weights.stored_model import StoredModel
from worker.weights.writer import TensorWriter


def must_begin(model: StoredModel, tensor: int) -> TensorWriter:
    """The right to write it, which must be free."""
    writer = model.begin(tensor)
    assert writer is not None
    return writer


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


def test_what_a_killed_process_noted_of_a_tensor_that_is_wrong_now_is_forgotten(
    open_store: OpenStore, source: Source
) -> None:
    model = create(open_store(), source)
    with must_begin(model, 5) as writer:
        source.write(writer, 5, order=random.Random())
        noted = (model.folder / "claims" / "5").read_bytes()
        writer.finish(source.hash(5))
    (model.folder / "claims" / "5").write_bytes(noted)
    flip(model.layout.path, source.layout.tensors[5].offset_bytes)
    assert not model.verify(5)
    with must_begin(model, 5) as writer:
        assert not writer.was_resumed


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


def test_after_a_power_cut_it_has_what_reached_the_disk_and_looks_at_the_rest(
    open_store: OpenStore, source: Source
) -> None:
    store = open_store()
    source.fetch(create(store, source), 1, 2)
    store.flush()
    unlucky = open_store()
    model = create(unlucky, source)
    source.fetch(model, 3, 4)
    # Before its syncing thread stirs.
    unlucky.close()
    lost = source.layout.tensors[4]
    with model.layout.path.open("r+b") as file:
        file.seek(lost.offset_bytes)
        file.write(bytes(lost.n_bytes))
    after = open_store(boot="after the power cut").find(source.layout.identity)
    assert after is not None
    assert after.held() == {1, 2}
    assert after.begin(3) is None
    assert after.held() == {1, 2, 3}
    with must_begin(after, 4) as writer:
        assert writer.missing() == [(0, lost.n_bytes)]


def test_what_does_not_reach_the_disk_is_not_held(
    open_store: OpenStore, source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    model = create(store, source)
    source.fetch(model, 1)
    store.flush()

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("worker.weights.disk.sync", fail)
    source.fetch(model, 2)
    store.flush()
    assert model.held() == {1}
    assert "do not reach the disk" in caplog.text


def test_ranges_of_a_broken_fetch_do_not_outlive_the_machines_start(open_store: OpenStore, source: Source) -> None:
    with must_begin(create(open_store(), source), 1) as writer:
        writer.write(0, source.tensor(1)[:10])
    with must_begin(create(open_store(boot="another start"), source), 1) as writer:
        assert not writer.was_resumed
