# SPDX-License-Identifier: MIT
"""Who counts as silent: whoever answers nothing, for as long as this process looked. With real workers: tests/line."""

import asyncio
from typing import cast

import pytest

from coordinator.control import WorkerClient
from coordinator.errors import WorkerSilentError
from coordinator.statuses import Callee
from coordinator.vigil import Silence, while_all_answer
from coordinator.workers import Health


def test_a_worker_is_asked_every_second_and_each_answer_counts_anew() -> None:
    silence = Silence(5.0)
    assert [silence.tick(0.25) for _ in range(9)] == [True, *[False] * 3, True, *[False] * 3, True]
    assert silence.silent_s == pytest.approx(2.25)
    silence.note_answer()
    assert silence.silent_s == 0


def test_time_in_which_this_process_was_suspended_is_nobodys_silence() -> None:
    silence = Silence(5.0)
    silence.tick(0.25)
    silence.tick(3600)
    assert silence.silent_s < 1
    assert not silence.is_too_long


class _Client:
    """A worker that takes so long for each answer."""

    def __init__(self, name: str, answers_after_s: float) -> None:
        self.callee = Callee(name, "10.0.0.2:9000")
        self._answers_after_s = answers_after_s

    async def health(self) -> Health:
        """Late, but it comes."""
        await asyncio.sleep(self._answers_after_s)
        return Health("session", 1)


async def _long_work(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


def _clients(**answers_after_s: float) -> list[WorkerClient]:
    return [cast(WorkerClient, _Client(name, seconds)) for name, seconds in answers_after_s.items()]


def test_work_ends_when_one_that_it_needs_is_silent_and_that_one_is_named() -> None:
    async def run() -> None:
        with pytest.raises(WorkerSilentError) as silent:
            await while_all_answer(_long_work(30), _clients(attic=0.0, cellar=60.0), 1.2)
        assert silent.value.worker == "cellar"

    asyncio.run(run())


def test_an_answer_that_comes_late_but_in_time_is_no_silence() -> None:
    assert asyncio.run(while_all_answer(_long_work(2.5), _clients(attic=1.0), 2.2)) == "done"
