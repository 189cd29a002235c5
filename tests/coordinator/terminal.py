# SPDX-License-Identifier: MIT
"""A command in a real terminal: a pseudo-terminal that a test types into and reads from."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

from tests.coordinator.caravan_command import command_line, environment

_TIMEOUT_S = 60
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>78])")

_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Becomes the command once its terminal is its controlling one, so that Ctrl-C there is a signal to it."""

CTRL_C, CTRL_D, ENTER, ALT_ENTER, UP = "\x03", "\x04", "\r", "\x1b\r", "\x1b[A"


class Terminal:
    """What a person sees and types. `shown` is all that was shown and not yet waited for, without escape sequences."""

    def __init__(self, process: subprocess.Popen[bytes], fd: int) -> None:
        self.process = process
        self.shown = ""
        self._fd = fd

    def type(self, keys: str) -> None:
        """Presses keys."""
        os.write(self._fd, keys.encode())

    def wait_for(self, pattern: str, timeout_s: float = _TIMEOUT_S) -> str:
        """Reads until it is shown; gives all up to its end, which counts as seen."""
        deadline = time.monotonic() + timeout_s
        while (found := re.search(pattern, self.shown)) is None:
            assert time.monotonic() < deadline, f"{pattern!r} was not shown, but: {self.shown}"
            self._read(0.1)
        seen, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return seen

    def end(self) -> int:
        """Reads until the command ends; its exit code."""
        deadline = time.monotonic() + _TIMEOUT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it did not end, and shows: {self.shown}"
            self._read(0.1)
        return self.process.returncode

    def _read(self, patience_s: float) -> None:
        if not select.select([self._fd], [], [], patience_s)[0]:
            return
        with contextlib.suppress(OSError):  # nobody writes there any more
            text = os.read(self._fd, 1 << 16).decode(errors="replace")
            self.shown += _ESCAPES.sub("", text).replace("\r", "")


@contextlib.contextmanager
def in_terminal(*args: str, **extra: str) -> Iterator[Terminal]:
    """`caravan` with these arguments in a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    ends = {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "NO_COLOR": "1", **extra}
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL, *command_line(*args)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(**ends),
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)
