# SPDX-License-Identifier: MIT
"""Ctrl-C: the first ends a command in order, the second at once.

`interruptible` is for commands that block (run, demo), with `first_interrupt` for what is a smaller thing to stop (an
answer in a chat), `on_stop_signals` for those on an event loop (serve).
Both are used on the main thread only, as signals are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from coordinator.cli.exits import ExitCode, StoppedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Stopping:
    """Counts the signals that came."""

    def __init__(self, first: Callable[[int], object]) -> None:
        self._first = first
        self._n_signals = 0

    def __call__(self, signal_number: int) -> None:
        self._n_signals += 1
        if self._n_signals == 1:
            self._first(signal_number)
            return
        # Workers started here end by themselves when their parent is gone.
        os.write(sys.stderr.fileno(), b"\ncaravan: stopped at once\n")
        os._exit(ExitCode.INTERRUPTED)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """The first SIGINT or SIGTERM raises StoppedError in the main thread; the second ends the process."""

    def stop(signal_number: int) -> None:
        raise StoppedError(signal_number)

    stopping = _Stopping(stop)
    with _handlers(lambda number, _frame: stopping(number)):
        yield


@contextlib.contextmanager
def first_interrupt(stop: Callable[[], object]) -> Iterator[None]:
    """Within `interruptible`: the first SIGINT calls `stop` in the main thread, which ends something smaller than the
    command; the next is the command's first."""
    outer = signal.getsignal(signal.SIGINT)
    n_interrupts = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal n_interrupts
        n_interrupts += 1
        if n_interrupts == 1:
            stop()
        elif callable(outer):
            outer(number, frame)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, outer)


@contextlib.contextmanager
def on_stop_signals(first: Callable[[int], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM calls `first` on this event loop; the second ends the process."""
    loop = asyncio.get_running_loop()
    stopping = _Stopping(lambda number: loop.call_soon_threadsafe(first, number))
    with _handlers(lambda number, _frame: stopping(number)):
        yield


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
