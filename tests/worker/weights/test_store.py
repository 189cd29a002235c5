# SPDX-License-Identifier: MIT
"""Models make room for others, the least recently used first, and never one that is used."""

import os
from pathlib import Path

import pytest

from tests.models import write_model
from tests.worker.weights.conftest import OpenStore
from tests.worker.weights.fetching import Source, create, left_over
from worker.errors import DiskFullError, ModelGoneError
from worker.weights import disk, room


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


def test_a_tensor_that_begins_counts_and_models_go_for_it(
    open_store: OpenStore, source: Source, other_source: Source
) -> None:
    store = open_store(2_000_000)
    source.fetch(create(store, source))
    other = create(store, other_source)
    with other.in_use():
        other_source.fetch(other)
        assert [model.identity for model in store.models()] == [other_source.layout.identity]
        again = create(store, source)
        with pytest.raises(DiskFullError):
            source.fetch(again)
    assert 0 < len(again.held()) < source.n_tensors
    assert sum(model.taken_bytes for model in store.models()) <= 2_050_000


def test_a_model_gives_up_what_nobody_needs_of_it_and_not_while_another_process_uses_it(
    open_store: OpenStore, source: Source, other_source: Source
) -> None:
    store, another = open_store(2_000_000), open_store(2_000_000)
    model = create(store, source)
    source.fetch(model)
    needed = set(range(5, 20))
    other = create(store, other_source)
    with model.in_use(needed), other.in_use():
        with create(another, source).in_use(), pytest.raises(DiskFullError):
            store.make_room(1_000_000)
        assert model.held() == set(range(source.n_tensors))
        other_source.fetch(other)
        assert model.held() == needed
        assert source.wrong(model) == other_source.wrong(other) == []
        assert sum(model.taken_bytes for model in store.models()) <= 2_050_000
    source.fetch(create(open_store(), source), 0)


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


def test_tensors_that_begin_at_once_are_not_promised_the_same_room(
    open_store: OpenStore, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_LOOK_S", 0.0)
    taken_bytes = disk.taken_bytes(create(open_store(), source).folder.parent)
    second, first = sorted(range(source.n_tensors), key=lambda tensor: len(source.tensor(tensor)))[-2:]
    n_bytes = len(source.tensor(first)) + len(source.tensor(second))
    model = open_store(taken_bytes + n_bytes).find(source.layout.identity)
    assert model is not None
    with model.in_use():
        writer = model.begin(first)
        assert writer is not None
        with pytest.raises(DiskFullError):
            model.begin(second)
        writer.write(0, source.tensor(first))
        with pytest.raises(DiskFullError):
            model.begin(second)
        writer.close()
        monkeypatch.setattr(model._room, "_limit_bytes", taken_bytes + n_bytes + (100 << 10))
        again = model.begin(second)
        assert again is not None
        again.close()
