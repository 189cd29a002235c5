# SPDX-License-Identifier: MIT
"""Why a worker's process ended, kept by whoever started it (a supervisor, or a coordinator with workers of its own) and
told by the process that it starts in its place: nobody else is there to tell. Any thread, one at a time.
"""

import json
import logging
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from protos.log_tail import LogTail
from protos.memory_kills import n_memory_kills
from protos.slate import MAX_ENDS_BYTES, Activity, Doing, Slate

_LOG = logging.getLogger(__name__)

# A worker that dies again and again is not to bury the end that began it under all that followed.
MAX_ENDS = 4


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How a worker's process ended, unasked.

    `ended_s`: seconds since 1970, by the clock of this machine. `signal_name`: of the signal that ended it, "SIGABRT";
    empty: it ended by itself, with `exit_code`. `for_memory`: whether the system's count of those it killed for want of
    memory had risen; None: it has none. `doing` None: not known.
    """

    end_id: str
    ended_s: float
    signal_name: str = ""
    exit_code: int = 0
    for_memory: bool | None = None
    doing: Doing | None = None
    log_tail: str = ""


class LastWords:
    """Of one worker: what its processes are doing and saying, and how the last few of them ended."""

    def __init__(self) -> None:
        self._slate = _slate_if_possible()
        self._tail = LogTail()
        self._ends: list[WorkerEnd] = []
        self._n_memory_kills: int | None = None

    def begin(self) -> int:
        """Another process is about to start; what its stdin is to be, for `subprocess`."""
        self._tail = LogTail()
        self._n_memory_kills = n_memory_kills()
        if self._slate is None or self._slate.descriptor is None:
            return subprocess.DEVNULL
        self._slate.wipe()
        self._slate.ends = packed(self._ends)
        return self._slate.descriptor

    def note_line(self, line: bytes) -> None:
        """It wrote this to stderr."""
        self._tail.add(line)

    def note_end(self, exit_code: int) -> WorkerEnd:
        """It has ended, and nobody had asked it to; below 0: by that signal, as `subprocess` has it."""
        end = WorkerEnd(
            end_id=uuid.uuid4().hex,
            ended_s=time.time(),
            signal_name=_signal_name(-exit_code) if exit_code < 0 else "",
            exit_code=max(0, exit_code),
            for_memory=self._is_for_memory() if exit_code == -9 else False,
            doing=None if self._slate is None else self._slate.doing(),
            log_tail=self._tail.text(),
        )
        self._ends = [*self._ends, end][-MAX_ENDS:]
        return end

    def close(self) -> None:
        """No more of its processes are started."""
        if self._slate is not None:
            self._slate.close()

    def _is_for_memory(self) -> bool | None:
        before, now = self._n_memory_kills, n_memory_kills()
        return None if before is None or now is None else now > before


def packed(ends: Sequence[WorkerEnd]) -> bytes:
    """For a slate: as many of the last ones as it has room for."""
    for first in range(len(ends)):
        told = json.dumps([asdict(end) for end in ends[first:]]).encode()
        if len(told) <= MAX_ENDS_BYTES:
            return told
    return b""


def unpacked(told: bytes) -> tuple[WorkerEnd, ...]:
    """What `packed` gave; none, where it makes no sense."""
    try:
        return tuple(_end(**fields) for fields in json.loads(told)) if told else ()
    except (ValueError, TypeError) as error:
        _LOG.warning("what is told of the process before makes no sense: %s", error)
        return ()


def _end(doing: dict[str, object] | None, **fields: object) -> WorkerEnd:
    known = None if doing is None else Doing(**{**doing, "activity": Activity(doing["activity"])})  # type: ignore[arg-type]
    return WorkerEnd(doing=known, **fields)  # type: ignore[arg-type]


def _slate_if_possible() -> Slate | None:
    try:
        return Slate.make()
    except OSError as error:
        _LOG.warning("what a worker does when it dies will not be known: %s", error)
        return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
