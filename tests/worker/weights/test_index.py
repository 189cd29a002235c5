# SPDX-License-Identifier: MIT
"""The index says what holds, wherever it was cut off, whatever became of its bytes, whoever else writes to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.weights.index import RECORD_BYTES, Index

_N_TENSORS = 20
_MODEL = "ab" * 32


def _hash(tensor: int) -> bytes:
    return bytes([tensor]) * 32


class Indexes:
    """Opens one log, as several processes would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: list[Index] = []

    def open(self, boot: str = "one", model: str = _MODEL, n_tensors: int = _N_TENSORS) -> Index:
        self._opened.append(Index(self.path, model, n_tensors, boot))
        return self._opened[-1]

    def close(self) -> None:
        for index in self._opened:
            index.close()


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[Indexes]:
    opened = Indexes(tmp_path / "index")
    yield opened
    opened.close()


def test_what_one_process_adds_or_drops_the_others_see(indexes: Indexes) -> None:
    first, second = indexes.open(), indexes.open()
    first.add(3, _hash(3))
    second.add(4, _hash(4))
    first.refresh()
    second.refresh()
    assert first.held() == second.held() == indexes.open().held() == {3, 4}
    assert second.hash_of(3) == _hash(3)
    second.drop({3: second.version(3)})
    first.refresh()
    assert first.held() == second.held() == indexes.open().held() == {4}


def test_a_power_cut_leaves_what_was_synced_and_the_rest_unsure(indexes: Indexes) -> None:
    index = indexes.open("before")
    index.add(1, _hash(1))
    position = index.position()
    index.add(2, _hash(2))
    index.synced(position)
    assert index.not_synced() == {2}
    after = indexes.open("after")
    assert after.held() == {1}
    assert after.unsure() == {2}
    assert after.hash_of(2) == _hash(2)
    assert indexes.open("before").held() == {1, 2}
    assert indexes.open("").held() == {1}


def test_a_record_outlives_its_process_where_the_system_tells_no_start_only_when_synced(indexes: Indexes) -> None:
    index = indexes.open("")
    index.add(1, _hash(1))
    assert index.held() == {1}
    assert indexes.open("").unsure() == {1}
    index.synced(index.position())
    assert indexes.open("").held() == {1}


def test_a_log_that_is_cut_anywhere_holds_what_was_whole(indexes: Indexes) -> None:
    index = indexes.open()
    for tensor in range(3):
        index.add(tensor, _hash(tensor))
    index.drop({1: index.version(1)})
    index.add(1, _hash(7))
    data = indexes.path.read_bytes()
    for n_bytes in range(len(data)):
        indexes.path.write_bytes(data[:n_bytes])
        whole = n_bytes // RECORD_BYTES
        again = indexes.open()
        # The first record of 1 was overwritten when it was dropped.
        assert again.held() == set(range(min(whole, 3))) - {1}
        again.add(9, _hash(9))
        again.close()
        assert indexes.open().held() == again.held() == set(range(min(whole, 3))) - {1} | {9}


def test_a_byte_that_changes_costs_one_record(indexes: Indexes) -> None:
    index = indexes.open()
    for tensor in range(3):
        index.add(tensor, _hash(tensor))
    data = indexes.path.read_bytes()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        indexes.path.write_bytes(changed)
        opened = indexes.open()
        assert opened.held() == {0, 1, 2} - {at // RECORD_BYTES}
        opened.close()


def test_what_was_dropped_does_not_come_back_when_its_own_record_is_lost(indexes: Indexes) -> None:
    index = indexes.open()
    index.add(1, _hash(1))
    index.synced(index.position())
    index.drop({1: index.version(1)})
    indexes.path.write_bytes(indexes.path.read_bytes()[:-RECORD_BYTES])
    assert indexes.open("after").held() == frozenset()


def test_only_the_version_that_was_found_wrong_is_dropped(indexes: Indexes) -> None:
    first, second = indexes.open(), indexes.open()
    first.add(1, _hash(1))
    second.refresh()
    version = second.version(1)
    first.drop({1: first.version(1)})
    first.add(1, _hash(1))
    second.drop({1: version})
    assert indexes.open().held() == {1}


def test_records_of_another_model_and_of_tensors_it_has_not_are_none(indexes: Indexes) -> None:
    index = indexes.open(n_tensors=1000)
    index.add(1, _hash(1))
    index.add(500, _hash(5))
    assert indexes.open().held() == {1}
    assert indexes.open(model="cd" * 32).held() == frozenset()


def test_garbage_is_nothing_and_can_be_added_to(indexes: Indexes) -> None:
    indexes.path.write_bytes(bytes(range(256)) * 3 + b"torn")
    index = indexes.open()
    assert index.held() == frozenset()
    index.add(1, _hash(1))
    assert indexes.open().held() == {1}
