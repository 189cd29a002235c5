# SPDX-License-Identifier: MIT
"""An event loop in a thread of its own, for callers that have none. Used by `Mesh`, from any thread but that one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from coordinator.errors import CancelledError, ClosedError

T = TypeVar("T")


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
            return job.result.result()
        except KeyboardInterrupt:
            self.loop.call_soon_threadsafe(job.cancel)
            concurrent.futures.wait([job.result])
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
    """A coroutine to run on a loop, and its result for another thread. asyncio's own run_coroutine_threadsafe gives up
    on the task when it is cancelled; here the result comes when the task has ended."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self.result: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._work = work
        self._task: asyncio.Task[T] | None = None

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work)
        self._task.add_done_callback(self._settle)

    def cancel(self) -> None:
        if self._task is None:
            self.drop()
            self.result.set_exception(CancelledError("it was cancelled"))
        else:
            self._task.cancel()

    def drop(self) -> None:
        """It will never begin."""
        self._work.close()

    def _settle(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.result.set_exception(CancelledError("it was cancelled"))
        elif (error := task.exception()) is not None:
            self.result.set_exception(error)
        else:
            self.result.set_result(task.result())
