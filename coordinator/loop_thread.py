# SPDX-License-Identifier: MIT
"""An event loop in a thread of its own, for callers that have none. Used by `Mesh`, from any thread but that one.

Callers wait on `queue.SimpleQueue`, never on `threading.Event` or `concurrent.futures.Future`: a Ctrl-C between the two
halves of those classes' `with lock` leaves the lock taken, and the loop would wait for it for ever. SimpleQueue is
written in C and has no such gap; putting into it never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from coordinator.errors import CancelledError, ClosedError

T = TypeVar("T")

_CLEANUP_POLL_S = 0.02
"""How often an interrupted caller looks whether its work has cleaned up."""


class ThreadSignal:
    """What wakes one thread that waits, from any other; see above for why it is no `threading.Event`.

    It may wake the waiting thread without need: whoever waits looks again.
    """

    def __init__(self) -> None:
        self._wakings: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """Wakes it; never waits."""
        self._wakings.put(None)

    def wait(self) -> None:
        """Returns when it was set since the last time."""
        self._wakings.get()


class LoopThread:
    """Runs from the start until `stop`."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        # Daemon: a mesh that nobody closed is closed at the interpreter's exit, and this thread with it; should that
        # fail, the exit must not hang.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self.stop()
            raise

    @property
    def is_current(self) -> bool:
        """Whether the caller is on this thread, where waiting for it would be waiting for ever."""
        return threading.current_thread() is self._thread

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine there and waits for its result. If the wait is interrupted (Ctrl-C), the coroutine is
        cancelled and has cleaned up before the interruption goes on; a second one does not wait.

        Raises:
            ClosedError: The thread was stopped.
            CancelledError: The coroutine was cancelled there.
        """
        job = _Job(work)
        try:
            self._begin(job)
            return job.result()
        except KeyboardInterrupt:
            self.loop.call_soon_threadsafe(job.cancel)
            job.wait()
            raise

    def call(self, function: Callable[[], T]) -> T:
        """Calls a function there and waits for its result; as `run`."""

        async def work() -> T:
            return function()

        return self.run(work())

    def stop(self) -> None:
        """Ends the loop and the thread; what still runs there is cancelled and cleans up. Safe to repeat."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        if not self.is_current:
            with contextlib.suppress(RuntimeError):  # interrupted before it had begun
                self._thread.join()

    def _begin(self, job: _Job[T]) -> None:
        try:
            self.loop.call_soon_threadsafe(job.begin)
        except RuntimeError:
            job.drop()
            raise ClosedError from None

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(_end_all_tasks())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            self.loop.close()


async def _end_all_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Job(Generic[T]):
    """A coroutine to run on a loop, and its end for another thread. `result` and `wait` are for that thread, the others
    for the loop's."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._is_over = False
        self._ended: queue.SimpleQueue[asyncio.Task[T]] = queue.SimpleQueue()

    def result(self) -> T:
        """Waits for the end."""
        try:
            return self._ended.get().result()
        except asyncio.CancelledError:
            raise CancelledError("it was cancelled") from None

    def wait(self) -> None:
        """Waits for the end, whatever it is and whoever has seen it."""
        while not self._is_over:
            with contextlib.suppress(queue.Empty):
                self._ended.get(timeout=_CLEANUP_POLL_S)

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work)
        self._task.add_done_callback(self._settle)

    def cancel(self) -> None:
        if self._task is None:
            self.drop()
        else:
            self._task.cancel()

    def drop(self) -> None:
        """It will never begin."""
        self._work.close()
        self._is_over = True

    def _settle(self, task: asyncio.Task[T]) -> None:
        self._is_over = True
        self._ended.put(task)
