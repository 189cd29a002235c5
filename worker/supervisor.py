# SPDX-License-Identifier: MIT
"""The supervisor: runs this machine's workers, one process each, and starts one again that died. What it decides is in
worker/fleet.py; here are the processes.

Runs on the main thread, which alone gets signals; each worker has two more threads, which read what it says. It never
loads llama.cpp, whose GPU drivers take some of a card's memory in every process that asks for it.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, TextIO, TypeAlias

from protos.last_words import LastWords
from worker.errors import ListingError
from worker.fleet import CLUSTER_CHANGED, WorkerOrder, cannot_start, delay_s, how_it_ended

# Python handles signals on the main thread alone, and the system may wake another one for them: the main thread looks
# up this often.
_LOOK_UP_S = 0.5
# A worker that was told to stop cuts itself off after 15 s.
_STOP_LIMIT_S = 20.0
# What each worker's process is.
_PROGRAM: tuple[str, ...] = ("-m", "worker")


def default_devices(*, integrated: bool) -> tuple[str, ...]:
    """The devices that get a worker each where none was named, as a child process tells them.

    Raises:
        ListingError: it did not.
    """
    command = [sys.executable, "-m", "worker.listing", *(["--integrated"] if integrated else [])]
    listed = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    try:
        return tuple(device["name"] for device in json.loads(listed.stdout)["devices"] if device["is_chosen"])
    except (ValueError, KeyError, TypeError):
        lines = listed.stderr.decode(errors="replace").split("\n")
        said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        raise ListingError(
            f"this machine's devices are not known, because the process that asks llama.cpp for them"
            f" {how_it_ended(listed.returncode)} ({said}); name devices with --device"
        ) from None


@dataclass(slots=True, eq=False)
class _Worker:
    """One worker: the process it has now, and what is known of those before."""

    order: WorkerOrder
    process: "subprocess.Popen[bytes] | None" = None
    started_s: float = 0.0
    # For how long this start had waited.
    delay_s: float = 0.0
    # When it starts again; None: it runs, or is over.
    due_s: float | None = None
    is_first_start: bool = True
    is_ready: bool = False
    # What it says before it is ready, or has ended.
    held: list[bytes] = field(default_factory=list)
    last_words: LastWords = field(default_factory=LastWords)


@dataclass(frozen=True, slots=True)
class _Said:
    """A line of a worker's, on stdout or on stderr."""

    worker: _Worker
    line: bytes
    is_complaint: bool


@dataclass(frozen=True, slots=True)
class _Ended:
    worker: _Worker
    exit_code: int


_Event: TypeAlias = _Said | _Ended | signal.Signals


class Supervisor:
    """Worker processes, from start to end."""

    def __init__(self, orders: Sequence[WorkerOrder], *, holds_back: bool) -> None:
        """`holds_back`: what a worker complains of before it is ready waits until it is, or has ended; so when none can
        start, the first of them alone is heard.
        """
        self._workers = [_Worker(order) for order in orders]
        self._holds_back = holds_back
        # SimpleQueue.put may be called from a signal handler: it is reentrant.
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._signals: set[signal.Signals] = set()
        self._kill_s: float | None = None
        self._exit_code = 0

    def run(self) -> int:
        """Runs them until a signal, or until none is left that would start again; the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _frame: self._events.put(signal.Signals(number)))
        now_s = time.monotonic()
        for worker in self._workers:
            worker.due_s = now_s
        while any(worker.process or worker.due_s is not None for worker in self._workers):
            self._do_what_is_due()
            with contextlib.suppress(queue.Empty):
                self._handle(self._events.get(timeout=self._patience_s()))
        return self._exit_code

    def _patience_s(self) -> float:
        """Until something is due."""
        now_s = time.monotonic()
        return max(0.0, min([_LOOK_UP_S, *(w.due_s - now_s for w in self._workers if w.due_s is not None)]))

    def _do_what_is_due(self) -> None:
        now_s = time.monotonic()
        for worker in self._workers:
            if worker.due_s is not None and worker.due_s <= now_s:
                worker.due_s = None
                self._start(worker)
        if self._kill_s is not None and self._kill_s <= now_s:
            self._kill()

    def _handle(self, event: _Event) -> None:
        match event:
            case _Said():
                self._pass_on(event)
            case _Ended(worker, exit_code):
                self._bury(worker, exit_code)
            case signal.Signals() if event in self._signals:
                self._kill()
            case signal.Signals():
                # Who presses Ctrl-C may say SIGTERM after it: that is no second Ctrl-C.
                self._signals.add(event)
                self._stop()

    def _start(self, worker: _Worker) -> None:
        """One more process for it, now or later."""
        command = [sys.executable, *_PROGRAM, *worker.order.arguments, "--parent-pid", str(os.getpid())]
        worker.started_s, worker.is_ready = time.monotonic(), False
        try:
            # A session of its own, so that a Ctrl-C at the terminal comes from here alone.
            worker.process = subprocess.Popen(
                command,
                stdin=worker.last_words.begin(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            self._start_again(worker, f"found no room for a process ({error.strerror})")
        else:
            threading.Thread(target=self._attend, args=(worker, worker.process), daemon=True).start()

    def _attend(self, worker: _Worker, process: "subprocess.Popen[bytes]") -> None:
        """On a thread of its own: turns what becomes of a process into events."""
        assert process.stdout is not None
        assert process.stderr is not None
        complaints = threading.Thread(target=self._read, args=(worker, process.stderr, True), daemon=True)
        complaints.start()
        self._read(worker, process.stdout, False)
        complaints.join()
        self._events.put(_Ended(worker, process.wait()))

    def _read(self, worker: _Worker, stream: IO[bytes], is_complaint: bool) -> None:
        with stream:
            for line in stream:
                self._events.put(_Said(worker, line.rstrip(b"\n") + b"\n", is_complaint))

    def _pass_on(self, said: _Said) -> None:
        worker = said.worker
        if said.is_complaint:
            worker.last_words.note_line(said.line)
        if not said.is_complaint:
            worker.is_ready, worker.is_first_start = True, False
            self._release(worker)
            _write(sys.stdout, said.line)
        elif worker.is_ready or not self._holds_back:
            _write(sys.stderr, said.line)
        else:
            worker.held.append(said.line)

    def _release(self, worker: _Worker) -> None:
        held, worker.held = worker.held, []
        for line in held:
            _write(sys.stderr, line)

    def _bury(self, worker: _Worker, exit_code: int) -> None:
        """It has ended: whose time had come, who was told to, who cannot start, or who died."""
        worker.process = None
        if self._kill_s is not None:
            if exit_code not in (0, -signal.SIGTERM):
                self._exit_code = self._exit_code or 1
            return
        self._release(worker)
        if exit_code == 0:
            return
        if worker.is_first_start and cannot_start(exit_code):
            self._exit_code = exit_code
            self._stop()
            return
        if exit_code != CLUSTER_CHANGED:
            worker.last_words.note_end(exit_code)
        self._start_again(worker, how_it_ended(exit_code))

    def _start_again(self, worker: _Worker, what_happened: str) -> None:
        now_s = time.monotonic()
        worker.is_first_start = False
        worker.delay_s = delay_s(worker.delay_s, now_s - worker.started_s)
        worker.due_s = now_s + worker.delay_s
        sentence = f"caravan worker: {worker.order.label} {what_happened}; it starts again in {worker.delay_s:.0f} s\n"
        _write(sys.stderr, sentence.encode())

    def _stop(self) -> None:
        """All are to end in good order; none starts again."""
        self._kill_s = time.monotonic() + _STOP_LIMIT_S
        for worker in self._workers:
            worker.due_s = None
            if worker.process is not None:
                worker.process.terminate()

    def _kill(self) -> None:
        """All end at once."""
        self._exit_code = self._exit_code or 1
        self._kill_s = time.monotonic() + _STOP_LIMIT_S
        for worker in self._workers:
            worker.due_s = None
            if worker.process is not None:
                worker.process.kill()


def _write(stream: TextIO, line: bytes) -> None:
    """At once and as it is. When nobody is there any more to read it, all goes nowhere from then on."""
    try:
        stream.buffer.write(line)
        stream.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
