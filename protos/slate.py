# SPDX-License-Identifier: MIT
"""The slate: a little memory that a worker's process shares with whoever started it. The process keeps on it what it is
doing, which can be read there after it died in whatever way; its starter keeps on it how those before it ended.

A worker finds its slate as its stdin: a file without a name, which every system hands on to a child, and which is gone
when nobody has it open. Nothing is ever written to it but memory, so that keeping it costs less than a microsecond a
frame. What a process that was killed was just writing may be half of it: numbers are no more than a hint.
"""

import contextlib
import mmap
import os
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_MAGIC = b"CRVNSLT1"
_N_BYTES = 128 << 10
# Session id, epoch, layer range: once for each epoch. The activity and the frame: once for each frame.
_STAGE = struct.Struct("<64sQII")
_STAGE_AT = 64
_FRAME = struct.Struct("<BBIIQ")
_FRAME_AT = 256
# Their length, then themselves.
_ENDS_AT = 4096
_LENGTH = struct.Struct("<I")
MAX_ENDS_BYTES = _N_BYTES - _ENDS_AT - _LENGTH.size


class Activity(IntEnum):
    """What a worker's process can be at."""

    NOTHING = 0
    LOADING = 1
    COMPUTING = 2
    """A frame."""
    MEASURING = 3
    """How fast its device is."""


# As plain numbers, for they are written with every frame.
_NOTHING, _COMPUTING = int(Activity.NOTHING), int(Activity.COMPUTING)


@dataclass(frozen=True, slots=True)
class Doing:
    """What a process was at, of which session and which layers, half-open. The last four are of the frame, with
    COMPUTING; `is_prefill`: there were tokens that no answer was wanted for."""

    activity: Activity
    session_id: str = ""
    epoch: int = 0
    layer_start: int = 0
    layer_end: int = 0
    frame_number: int = 0
    n_tokens: int = 0
    n_sequences: int = 0
    is_prefill: bool = False


class Slate:
    """One of them, as its starter or as its process has it. Each part of it has one writer at a time."""

    def __init__(self, memory: mmap.mmap, descriptor: int | None = None) -> None:
        """Takes both over; `descriptor`: the file's, if it is to be closed."""
        self._memory = memory
        # What is written with every frame goes through it: that takes two thirds of the time.
        self._view = memoryview(memory)
        self._descriptor = descriptor

    @classmethod
    def make(cls) -> "Slate":
        """An empty one, for whoever starts a process. Raises OSError."""
        descriptor = _make_file()
        try:
            # Written out, so that there is room for every byte of it.
            os.write(descriptor, _MAGIC.ljust(_N_BYTES, b"\0"))
            return cls(mmap.mmap(descriptor, _N_BYTES), descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def of_this_process(cls) -> "Slate":
        """The one that this process was given; where it was given none, one that nobody else sees."""
        with contextlib.suppress(OSError, ValueError):
            about = os.fstat(0)
            if stat.S_ISREG(about.st_mode) and about.st_size == _N_BYTES:
                memory = mmap.mmap(0, _N_BYTES)
                if memory[: len(_MAGIC)] == _MAGIC:
                    return cls(memory)
                memory.close()
        return cls.private()

    @classmethod
    def private(cls) -> "Slate":
        """One that nobody else sees."""
        return cls(mmap.mmap(-1, _N_BYTES))

    @property
    def descriptor(self) -> int | None:
        """What is to be a child's stdin."""
        return self._descriptor

    def note_stage(self, session_id: str, epoch: int, layer_start: int, layer_end: int) -> None:
        """What is done from now on is done for these."""
        _STAGE.pack_into(self._memory, _STAGE_AT, session_id.encode(), epoch, layer_start, layer_end)

    def note_frame(self, number: int, n_tokens: int, n_sequences: int, is_prefill: bool) -> None:
        """This frame is being computed."""
        _FRAME.pack_into(self._view, _FRAME_AT, _COMPUTING, is_prefill, n_tokens, n_sequences, number)

    def note(self, activity: Activity) -> None:
        """This is being done, and no frame."""
        self._view[_FRAME_AT] = activity

    def note_end_of_frame(self) -> None:
        """Nothing is."""
        self._view[_FRAME_AT] = _NOTHING

    @contextlib.contextmanager
    def noted(self, activity: Activity, session_id: str, epoch: int, layers: tuple[int, int]) -> Iterator[None]:
        """This is being done as long as the context lasts."""
        self.note_stage(session_id, epoch, *layers)
        self.note(activity)
        try:
            yield
        finally:
            self.note(Activity.NOTHING)

    def doing(self) -> Doing | None:
        """What the process that has it is, or was, at; None: that makes no sense."""
        session_id, epoch, layer_start, layer_end = _STAGE.unpack_from(self._memory, _STAGE_AT)
        number, is_prefill, n_tokens, n_sequences, frame_number = _FRAME.unpack_from(self._memory, _FRAME_AT)
        try:
            activity = Activity(number)
            if activity is Activity.NOTHING:
                return Doing(activity)
            stage = (session_id.rstrip(b"\0").decode("ascii"), epoch, layer_start, layer_end)
        except ValueError:
            return None
        if activity is not Activity.COMPUTING:
            return Doing(activity, *stage)
        return Doing(activity, *stage, frame_number, n_tokens, n_sequences, bool(is_prefill))

    def wipe(self) -> None:
        """Another process is about to have it; the ends stay."""
        self._memory[_STAGE_AT:_ENDS_AT] = bytes(_ENDS_AT - _STAGE_AT)

    @property
    def ends(self) -> bytes:
        """How the processes before ended, as they were put here."""
        (length,) = _LENGTH.unpack_from(self._memory, _ENDS_AT)
        begin = _ENDS_AT + _LENGTH.size
        return self._memory[begin : begin + min(length, MAX_ENDS_BYTES)]

    @ends.setter
    def ends(self, told: bytes) -> None:
        """At most MAX_ENDS_BYTES."""
        begin = _ENDS_AT + _LENGTH.size
        self._memory[begin : begin + len(told)] = told
        _LENGTH.pack_into(self._memory, _ENDS_AT, len(told))

    def close(self) -> None:
        """It is not used any more; safe to repeat."""
        self._view.release()
        self._memory.close()
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _make_file() -> int:
    """A file without a name."""
    if sys.platform == "linux":
        return os.memfd_create("caravan-slate")
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())
