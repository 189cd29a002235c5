# SPDX-License-Identifier: MIT
"""The thread with an event loop behind `Mesh`."""

import asyncio
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from coordinator.errors import CancelledError, ClosedError
from coordinator.loop_thread import LoopThread


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    thread = LoopThread("test-loop")
    yield thread
    thread.stop()


async def _add(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


async def _fail() -> None:
    raise ValueError("no")


async def _cancel_itself() -> None:
    raise asyncio.CancelledError


def test_results_and_errors_come_back(thread: LoopThread) -> None:
    assert thread.run(_add(1, 2)) == 3
    with pytest.raises(ValueError, match="no"):
        thread.run(_fail())
    with pytest.raises(CancelledError):
        thread.run(_cancel_itself())
    assert thread.call(threading.get_ident) != threading.get_ident()


def test_many_threads_may_use_it_at_once(thread: LoopThread) -> None:
    sums: list[int] = []
    callers = [threading.Thread(target=lambda n=n: sums.append(thread.run(_add(n, n)))) for n in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(sums) == [2 * n for n in range(8)]


def test_an_interrupted_wait_cancels_the_work_and_lets_it_clean_up(thread: LoopThread) -> None:
    cleaned = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    async def work() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.05)
            cleaned.set()

    with pytest.raises(KeyboardInterrupt):
        thread.run(work())
    assert cleaned.is_set()


def test_after_stopping_it_runs_nothing_and_has_ended() -> None:
    thread = LoopThread("test-loop")
    thread.stop()
    thread.stop()
    with pytest.raises(ClosedError):
        thread.run(_add(1, 2))
    time.sleep(0)
    assert "test-loop" not in {running.name for running in threading.enumerate()}
