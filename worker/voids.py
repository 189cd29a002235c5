# SPDX-License-Identifier: MIT
"""Frames of one Feed that are void: guesses after a wrong one, which nobody wants the results of. The Feed's reader
notes them, the engine asks before it begins a frame.
"""

import threading
from collections.abc import Iterable


class Voids:
    """None at first. `numbers` are of those to come, and maybe of some that were begun too early: while there are none,
    which is nearly always, a look at them is all that a frame costs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.numbers: set[int] = set()

    def note(self, numbers: Iterable[int]) -> None:
        """These need not be computed, be they here or on their way; on the reader's thread."""
        with self._lock:
            self.numbers.update(numbers)

    def take(self, number: int) -> bool:
        """Whether the frame that comes next is void; on the engine's thread, with ascending numbers."""
        with self._lock:
            is_void = number in self.numbers
            # What was begun before it was called void went its way.
            self.numbers = {other for other in self.numbers if other > number}
        return is_void
