# SPDX-License-Identifier: MIT
"""The journal's file: what a crash leaves of it, what damage does, that it does not grow for ever, a full disk."""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordinator.admission import AdmittedRequest
from coordinator.errors import DeadlineError
from coordinator.generation import FinishReason, Token, TokenStream, TopLogprob, Usage
from coordinator.journal.claim import JournalError, claimed, read_journal
from coordinator.journal.entries import Stored, StoredAnswer, StoredPart
from coordinator.journal.journal import Entry, Journal, Sync
from coordinator.journal.records import MAGIC, Record, packed, read_records
from native import SamplingParams

_REQUEST = AdmittedRequest(
    (1, 2, 3),
    50,
    ("stop",),
    SamplingParams(seed=7, grammar="root ::= [a-z]", logit_bias=((2, float("-inf")),), logprobs=True),
    cache_prompt=False,
    client="10.0.0.9",
    priority=2,
    timeout_s=30.0,
)
_TOKENS = [
    Token(5, "a", b"a"),
    Token(6, "", b"\xe2\x82", -0.5, (TopLogprob(6, -0.5, b"\xe2\x82"), TopLogprob(7, -1.5, b"x"))),
    Token(8, "€b", b"\xacb"),
    Token(2, "st", b""),
]
_RECORDS: list[Record] = [
    {"is": "model", "identity": "m", "salt": b"s"},
    {"is": "gone", "id": "x"},
    {"is": "gone", "id": "y" * 300},
]


def _no_warning(sentence: str) -> None:
    raise AssertionError(sentence)


def _entry(name: str, n_tokens: int = 0) -> Entry:
    stream = TokenStream(_REQUEST.prompt, asyncio.Event())
    for token in range(n_tokens):
        stream.push(Token(token, "text", b"text"))
    return Entry(StoredAnswer(name, 1.5, {"kind": "cmpl"}, [StoredPart(_REQUEST, 99.0)]), [stream])


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def _read(path: Path) -> Stored:
    return read_journal(path, "m", _no_warning)


def test_a_torn_last_record_is_as_if_it_had_not_been_written() -> None:
    whole = MAGIC + b"".join(map(packed, _RECORDS))
    last = len(whole) - len(packed(_RECORDS[-1]))
    for end in range(last + 1, len(whole)):
        read = read_records(whole[:end])
        assert (read.records, read.damaged_at, read.is_torn) == (tuple(_RECORDS[:-1]), None, True)
    assert read_records(whole[:last] + bytes(500)).damaged_at is None  # a file made longer before the power went
    assert read_records(whole).records == tuple(_RECORDS)


def test_any_other_damage_is_found_and_what_comes_after_is_not_used() -> None:
    whole = MAGIC + b"".join(map(packed, _RECORDS))
    start, last = len(MAGIC), len(whole) - len(packed(_RECORDS[-1]))
    second = start + len(packed(_RECORDS[0]))
    for at in range(start, last):
        damaged = bytearray(whole)
        damaged[at] ^= 0x40
        read = read_records(bytes(damaged))
        assert read.damaged_at == (start if at < second else second)
        assert len(read.records) == (at >= second)
    assert read_records(b"something else").damaged_at == 0


async def test_what_was_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, "m", b"salt", sync=Sync.ALWAYS, warn=_no_warning)
    journal.start([])
    running, failed, unwanted = _entry("running"), _entry("failed"), _entry("unwanted")
    for entry in (running, failed, unwanted):
        await asyncio.wait_for(journal.add(entry), 10)
    assert path.stat().st_mode & 0o777 == 0o600
    assert set(_read(path).answers) == {"running", "failed", "unwanted"}
    for token in _TOKENS:
        running.streams[0].push(token)
    usage = Usage(3, 1, cached_tokens=2)
    failed.streams[0].fail(DeadlineError(30.0, 1), usage)
    journal.forget("unwanted")
    journal.close()
    found = _read(path)
    assert (found.identity, found.salt, set(found.answers)) == ("m", b"salt", {"running", "failed"})
    answer = found.answers["running"]
    (part,) = answer.parts
    assert (answer.about, part.request, part.deadline, part.tokens, part.end) == (
        {"kind": "cmpl"}, _REQUEST, 99.0, _TOKENS, None,
    )  # fmt: skip
    end = found.answers["failed"].parts[0].end
    assert end is not None
    assert isinstance(end.error, DeadlineError)
    assert (end.error.message, end.usage) == (DeadlineError(30.0, 1).message, usage)


async def test_a_file_that_has_grown_is_written_anew_with_what_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, "m", b"salt", sync=Sync.NEVER, warn=_no_warning, large_bytes=20_000)
    kept = _entry("kept", 10)
    journal.start([kept])
    largest = 0
    for number in range(60):
        entry = _entry(f"answer {number}", 100)
        await journal.add(entry)
        largest = max(largest, path.stat().st_size)
        entry.streams[0].finish(FinishReason.STOP, Usage(3, 100))
        journal.forget(entry.answer.id)
    for token in _TOKENS:
        kept.streams[0].push(token)
    kept.streams[0].finish(FinishReason.LENGTH, Usage(3, 14))
    journal.close()
    assert 10_000 < largest < 30_000
    (part,) = _read(path).answers["kept"].parts
    assert part.tokens == kept.streams[0].tokens
    assert part.end is not None
    assert part.end.reason is FinishReason.LENGTH


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Bounds the size of files that this process writes, for which the system refuses to write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda n_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


async def test_a_full_disk_is_told_once_and_what_was_missed_is_written_later(
    tmp_path: Path, full_disk: Callable[[int], None]
) -> None:
    path, warnings = tmp_path / "journal", list[str]()
    journal = Journal(path, "m", b"salt", sync=Sync.NEVER, warn=warnings.append)
    journal.start([])
    first, second = _entry("first"), _entry("second", 500)
    await journal.add(first)
    full_disk(path.stat().st_size + 50)
    for token in _TOKENS * 20:
        first.streams[0].push(token)
    await _until(lambda: bool(warnings))
    await asyncio.wait_for(journal.add(second), 5)  # who generates does not wait for room
    assert len(warnings) == 1
    assert "cannot be written (File too large): requests are served all the same" in warnings[0]
    assert read_records(path.read_bytes()).is_torn is False
    full_disk(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    await _until(lambda: len(warnings) == 2)
    journal.close()
    found = _read(path)
    assert found.answers["first"].parts[0].tokens == _TOKENS * 20
    assert len(found.answers["second"].parts[0].tokens) == 500


def test_a_journal_that_is_damaged_or_of_another_model_is_told_and_kept(tmp_path: Path) -> None:
    path, told = tmp_path / "journal", list[str]()
    whole = MAGIC + b"".join(map(packed, _RECORDS))
    path.write_bytes(whole)
    assert read_journal(path, "another", told.append) == Stored("another")
    assert "is of another model: its answers are not gone on with" in told[0]
    assert (tmp_path / "journal.other").read_bytes() == whole
    path.write_bytes(whole[:-50] + b"?" + whole[-49:] + packed(_RECORDS[1]))
    read_journal(path, "m", told.append)
    assert f"is damaged at byte {len(whole) - len(packed(_RECORDS[-1]))} of " in told[1]
    assert (tmp_path / "journal.damaged").exists()


def test_one_process_at_a_time_writes_a_journal(tmp_path: Path) -> None:
    with claimed(tmp_path / "journal"), pytest.raises(JournalError, match="another caravan serve"):  # noqa: SIM117
        with claimed(tmp_path / "journal"):
            pass
    with claimed(tmp_path / "journal"):
        pass
