# SPDX-License-Identifier: MIT
"""What a chat shows: answers on stdout as they come, all else on stderr, each on lines of its own where both are one
terminal. Written to by the main thread, and by the mesh's own, which tells what becomes of the line.
"""

from __future__ import annotations

import sys
import threading

from coordinator.cli.console import emit, say
from coordinator.events import LineEvent


class Screen:
    """Knows whether an answer is in the middle of a line."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_one = sys.stdout.isatty() and sys.stderr.isatty()
        self._is_mid_line = False
        self._thought = ""

    def write(self, text: str) -> None:
        """Goes on with an answer.

        Raises:
            ReaderGoneError: As `emit`.
        """
        if text:
            with self._lock:
                self._tell_thought()
                emit(text)
                self._is_mid_line = not text.endswith("\n")

    def end_answer(self) -> None:
        """An answer ends with one newline at least, as in `caravan run`."""
        self.write("\n")

    def think(self, text: str) -> None:
        """What the model thinks before it answers, on stderr by whole lines; its last one when the answer begins."""
        *lines, self._thought = (self._thought + text).split("\n")
        for line in lines:
            self.tell(line, style="dim")

    def _tell_thought(self) -> None:
        thought, self._thought = self._thought, ""
        if thought:
            self.tell(thought, style="dim")

    def tell(self, message: str, style: str | None = None) -> None:
        """Something else."""
        with self._lock:
            if self._is_mid_line and self._is_one:
                emit("\n")
                self._is_mid_line = False
            say(message, style)

    def tell_event(self, event: LineEvent) -> None:
        """What became of the line."""
        self.tell(f"caravan: {event.message}")
