# SPDX-License-Identifier: MIT
"""What is to happen after a while, unless something else comes in between. Any thread."""

import threading
from collections.abc import Callable


class Countdown:
    """One at a time: who starts the next ends the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def start(self, seconds: float, action: Callable[[], None]) -> None:
        """`action` is called on a thread of its own. It may just have begun when this is ended, so it looks for itself
        whether it is still meant."""
        timer = threading.Timer(seconds, action)
        timer.name, timer.daemon = "countdown", True
        with self._lock:
            before, self._timer = self._timer, timer
            timer.start()
        if before is not None:
            before.cancel()

    def end(self) -> None:
        """Nothing happens any more."""
        with self._lock:
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
