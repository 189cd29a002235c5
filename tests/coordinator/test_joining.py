# SPDX-License-Identifier: MIT
"""Who is worth a thought while a line serves, and when changing it is worth a pause."""

from dataclasses import replace

import pytest

from coordinator.joining import is_worth_a_pause
from coordinator.welcome import Welcome
from coordinator.workers import BuildVersions, FoundWorker, WorkerDevice

_DEVICE = WorkerDevice("CPU", "", "CPU", "cpu", 1, 1, 1)
_ATTIC = FoundWorker("attic", "1", "attic:1", "attic", "1", BuildVersions("", "", "", ""), _DEVICE)


def _is_welcome(welcome: Welcome, now_s: float, worker: FoundWorker = _ATTIC) -> bool:
    return welcome.worth_a_thought([worker], now_s) == [worker]


def test_a_worker_is_considered_once_until_it_was_started_again_or_some_time_has_gone() -> None:
    welcome = Welcome()
    assert _is_welcome(welcome, 0)
    welcome.note_considered([_ATTIC], 0)
    assert not _is_welcome(welcome, 1)
    assert _is_welcome(welcome, 1, replace(_ATTIC, instance_id="2"))
    assert _is_welcome(welcome, 601)


def test_one_that_was_away_is_new() -> None:
    welcome = Welcome()
    welcome.note_considered([_ATTIC], 0)
    assert welcome.worth_a_thought([], 1) == []
    assert _is_welcome(welcome, 2)


def test_one_that_comes_and_goes_is_left_alone_for_ever_longer() -> None:
    welcome = Welcome()
    waits = []
    now_s = 0.0
    for _ in range(12):
        welcome.note_failed("attic", now_s)
        waits.append(next(wait for wait in range(1, 2000) if _is_welcome(welcome, now_s + wait)))
        now_s += waits[-1]
    assert waits[:4] == [5, 10, 20, 40]
    assert waits[-1] == 1800
    welcome.note_failed("attic", now_s + 3600)
    assert _is_welcome(welcome, now_s + 3605)


@pytest.mark.parametrize(
    ("gain", "speed", "n_tokens_left", "pause_s", "expected"),
    [
        (2.0, 10.0, 400, 9.0, True),  # 20 s more, or 10
        (2.0, 10.0, 400, 11.0, False),
        (1.2, 10.0, 400, 9.0, False),
        (None, 10.0, 4000, 0.5, False),
        (2.0, None, 4000, 0.5, False),
    ],
)
def test_a_change_has_to_gain_more_than_it_costs(
    gain: float | None, speed: float | None, n_tokens_left: int, pause_s: float, expected: bool
) -> None:
    assert is_worth_a_pause(gain, speed, n_tokens_left, pause_s) is expected
