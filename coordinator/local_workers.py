# SPDX-License-Identifier: MIT
"""Worker processes that the coordinator starts on this machine, for itself alone: on loopback, unannounced, gone when
the coordinator is. Used when a mesh opens and no worker was found, on the event loop.

A worker leaves in one of three ways: `close` ends it; it notices that its parent is gone (--parent-pid); or it gets
SIGTERM from whoever. A Ctrl-C at the terminal does not reach it, because it has a session of its own: the coordinator
ends it in good order.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Collection, Sequence

from coordinator.errors import WorkerStartError
from native import Device, DeviceKind, devices
from protos.last_words import LastWords

_LOG = logging.getLogger(__name__)

_START_TIMEOUT_S = 60.0
"""Python, llama.cpp and a GPU driver from a cold disk."""

_TERM_TIMEOUT_S = 5.0
"""From SIGTERM to SIGKILL: a worker finishes the step it computes."""

_DEATH_S = 0.1
"""From when a process has closed its connections until the system says that it is gone."""

_LAST_LINES = 20
"""Of a worker's log, for the message when it does not start."""


class LocalWorkers:
    """The worker processes started here."""

    def __init__(self, *, plain: bool, taken: Collection[str] = ()) -> None:
        """`plain`: they are no members of any cluster. `taken`: names that they may not have."""
        self._workers: list[_LocalWorker] = []
        self._taken = taken
        self._options = ("--insecure",) if plain else ()

    async def start(self, n_workers: int) -> list[str]:
        """Starts so many and waits until all are ready; gives their addresses. GPUs are dealt out in turn.

        Raises:
            WorkerStartError: One did not become ready; none is left behind.
        """
        chosen = _deal_devices(devices(), n_workers)
        threads = max(1, (os.cpu_count() or 1) // n_workers)
        names = (name for i in itertools.count(1) if (name := f"local-{i}") not in self._taken)
        started = [_LocalWorker(next(names), device, threads, self._options) for device in chosen]
        self._workers += started
        tasks = [asyncio.ensure_future(worker.start()) for worker in started]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.close()
            raise

    async def revive(self) -> list[str]:
        """Starts those anew that have ended; gives the addresses of all that run. One that does not come up again is
        left as it is."""
        ends = [asyncio.ensure_future(worker.ended()) for worker in self._workers]
        await asyncio.wait(ends, timeout=_DEATH_S)
        for end in ends:
            end.cancel()
        await asyncio.gather(
            *(worker.restart() for worker in self._workers if worker.has_ended), return_exceptions=True
        )
        return [worker.address for worker in self._workers if not worker.has_ended]

    async def close(self) -> None:
        """Ends all of them and waits until they are gone."""
        workers, self._workers = self._workers, []
        await asyncio.gather(*(worker.close() for worker in workers))


class _LocalWorker:
    def __init__(self, name: str, device: str | None, n_threads: int, options: Sequence[str]) -> None:
        self._name = name
        self._command = [
            sys.executable, "-m", "worker", "--json", "--no-mdns", "--name", name, "--listen", "127.0.0.1:0",
            "--parent-pid", str(os.getpid()), *options,
        ]  # fmt: skip
        if device is not None:
            self._command += ["--device", device]
        else:
            self._command += ["--threads", str(n_threads)]
        self.address = ""
        self._process: asyncio.subprocess.Process | None = None
        self._log: deque[str] = deque(maxlen=_LAST_LINES)
        self._drain: asyncio.Task[None] | None = None
        self._last_words = LastWords()
        self._was_stopped = False

    async def start(self) -> str:
        """Starts the process; gives its address once it is ready."""
        process = await self._spawn()
        self._was_stopped = False
        assert process.stdout is not None
        assert process.stderr is not None
        self._drain = asyncio.get_running_loop().create_task(self._drain_log(process.stderr))
        try:
            line = await asyncio.wait_for(process.stdout.readline(), _START_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise self._start_error(f"was not ready after {_START_TIMEOUT_S:.0f} s") from None
        try:
            self.address = str(json.loads(line)["address"])
            return self.address
        except (ValueError, KeyError, TypeError):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._drain), _TERM_TIMEOUT_S)
            raise self._start_error("ended before it was ready") from None

    async def ended(self) -> None:
        """Returns when its process is gone."""
        if self._process is not None:
            await self._process.wait()

    @property
    def has_ended(self) -> bool:
        """Whether its process was started, and is gone."""
        return self._process is not None and self._process.returncode is not None

    async def restart(self) -> None:
        """Starts a process in place of the one that has ended.

        Raises:
            WorkerStartError: It did not become ready, and is gone too.
        """
        await self.stop()
        if self._process is not None and self._process.returncode and not self._was_stopped:
            self._last_words.note_end(self._process.returncode)
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise

    async def _spawn(self) -> asyncio.subprocess.Process:
        """Takes milliseconds, and is not to be cancelled half-way: asyncio would forget the process."""
        spawning = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *self._command,
                stdin=self._last_words.begin(),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        )
        cancelled = False
        while not spawning.done():
            cancelled |= await _was_cancelled(spawning)
        self._process = spawning.result()
        if cancelled:
            raise asyncio.CancelledError
        return self._process

    async def stop(self) -> None:
        """Ends the process: SIGTERM, then SIGKILL."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            self._was_stopped = True
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _TERM_TIMEOUT_S)
            except asyncio.TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        await process.wait()
        if self._drain is not None:
            await asyncio.gather(self._drain, return_exceptions=True)

    async def close(self) -> None:
        """Ends the process; there is no other after it."""
        await self.stop()
        self._last_words.close()

    async def _drain_log(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            self._last_words.note_line(line)
            text = line.decode(errors="replace").rstrip()
            self._log.append(text)
            _LOG.debug("%s: %s", self._name, text)

    def _start_error(self, what: str) -> WorkerStartError:
        reason = next((line for line in reversed(self._log) if line), "it said nothing")
        return WorkerStartError(f"a worker on this machine {what}: {reason}", worker=self._name, retry_safe=True)


async def _was_cancelled(work: asyncio.Future[asyncio.subprocess.Process]) -> bool:
    """Waits for it, or for a cancellation that does not reach it; whether the latter came."""
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        return True
    return False


def _deal_devices(available: Sequence[Device], n_workers: int) -> list[str | None]:
    """A GPU for each worker, in turn; None (the worker's own choice) where there is none."""
    gpus = [device.name for device in available if device.kind is DeviceKind.GPU]
    return [gpus[i % len(gpus)] if gpus else None for i in range(n_workers)]
