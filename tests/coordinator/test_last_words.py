# SPDX-License-Identifier: MIT
"""What workers tell of processes before them: told once, and nothing that came over the network goes beyond bounds."""

import math
import time
from dataclasses import replace

import pytest

from coordinator.last_words import EndsHeard, ends_of, sentence
from coordinator.workers import BuildVersions, FoundWorker, WorkerDevice
from protos.caravan.v1 import control_pb2
from protos.last_words import WorkerEnd, packed, unpacked
from protos.slate import MAX_ENDS_BYTES, Activity, Doing

_DEVICE = WorkerDevice("CPU", "", "CPU", "cpu", 1, 1, 1)
_CELLAR = FoundWorker("cellar", "1", "cellar:1", "cellar", "1", BuildVersions("", "", "", ""), _DEVICE)
_COMPUTING = Doing(Activity.COMPUTING, "s", 2, 8, 16, 7, 512, 4, is_prefill=True)
_FIRST, _SECOND = (
    WorkerEnd(name, time.time(), "SIGABRT", doing=_COMPUTING, log_tail="/a.c:1: GGML_ASSERT(x) failed")
    for name in ("first", "second")
)


def test_an_end_is_told_once_and_not_what_was_before_the_mesh() -> None:
    heard = EndsHeard([replace(_CELLAR, ends=(_FIRST,))])
    assert heard.news([replace(_CELLAR, ends=(_FIRST,))]) == []
    (told,) = heard.news([replace(_CELLAR, ends=(_FIRST, _SECOND))])
    assert (told.worker, told.end) == ("cellar", _SECOND)
    assert heard.news([replace(_CELLAR, ends=(_FIRST, _SECOND))]) == []
    # One that is new may have a past, which is none of this mesh's.
    assert heard.news([replace(_CELLAR, name="attic", ends=(_FIRST,))]) == []


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (_FIRST, "by an abort (SIGABRT) while computing 512 tokens of 4 sequences (prefill) with layers 8 to 15;"),
        (WorkerEnd("a", 0, "SIGKILL", for_memory=True), "by SIGKILL (the system's, for want of memory, as it seems);"),
        (WorkerEnd("a", 0, "SIGKILL"), "by SIGKILL (possibly the system's, for want of memory); it said nothing"),
        (WorkerEnd("a", 0, exit_code=0xC0000005), "with exit code 0xc0000005; it said nothing"),
        (WorkerEnd("a", 0, exit_code=1, doing=Doing(Activity.LOADING, "s", 1, 0, 4)), "1 while loading layers 0 to 3;"),
    ],
)
def test_how_it_ended_is_a_sentence(end: WorkerEnd, expected: str) -> None:
    assert expected in sentence("cellar", end)


def test_what_came_over_the_network_is_bounded_and_clean() -> None:
    doing = control_pb2.Doing(
        activity=control_pb2.ACTIVITY_COMPUTING, session_id="\x1b[2J", layer_start=9, layer_end=3, n_tokens=2**32 - 1
    )
    hostile = control_pb2.WorkerEnd(
        id="x",
        seconds_ago=math.nan,
        signal_name="SIG\n\x1b[2J",
        exit_code=-(2**63),
        doing=doing,
        log_tail="\x07y" * 10**6,
    )
    (end,) = ends_of([hostile])
    assert sentence("cellar", end).isprintable()
    assert len(sentence("cellar", end)) < 600
    assert end.doing is not None
    assert (end.signal_name, end.doing.session_id) == ("", "")
    assert len(ends_of([hostile] * 1000)) == 4
    assert ends_of([control_pb2.WorkerEnd(id="\n"), control_pb2.WorkerEnd()]) == ()
    for ago_s in (-math.inf, -1e308, 1e308, math.inf):
        assert sentence("cellar", ends_of([control_pb2.WorkerEnd(id="x", seconds_ago=ago_s)])[0])


def test_a_slate_has_room_for_the_last_ends() -> None:
    assert unpacked(packed([_FIRST, _SECOND])) == (_FIRST, _SECOND)
    large = replace(_SECOND, log_tail="\u202e" * (MAX_ENDS_BYTES // 8))
    assert unpacked(packed([large, large, _FIRST])) == (large, _FIRST)
    assert unpacked(b"{") == unpacked(b'[{"a": 1}]') == unpacked(b"") == ()
