# SPDX-License-Identifier: MIT
"""What fails for reasons that may pass is tried again, with growing waits, or with the one that a server asks for."""

from __future__ import annotations

import contextlib
import email.utils
import time
from collections.abc import Callable

from coordinator.errors import SourceError
from coordinator.weights.cancellation import Cancellation
from protos.http_ranges import PassingError

_FIRST_WAIT_S = 0.5
_MAX_WAIT_S = 120.0
"""Who asks us to wait longer (Retry-After) is told of as an error."""


class Patience:
    """For one thing that is tried.

    Args:
        shown: What to call it in sentences.
        failed: What to raise for the last error.
        n_tries: So many in a row may fail.
    """

    def __init__(
        self, shown: str, failed: Callable[[Exception], SourceError], cancellation: Cancellation, n_tries: int
    ) -> None:
        self._shown = shown
        self._failed = failed
        self._cancellation = cancellation
        self._n_tries = n_tries
        self._n_failed = 0

    def succeed(self) -> None:
        """Something came: it is counted anew."""
        self._n_failed = 0

    def bear(self, error: Exception) -> None:
        """Waits until the next try. Raises SourceError where there is to be none, CancelledError."""
        self._cancellation.check()
        self._n_failed += 1
        failure = self._failed(error)
        if self._n_failed >= self._n_tries or not failure.retry_safe:
            raise failure from None
        wait_s = error.wait_s if isinstance(error, PassingError) else None
        if wait_s is not None and wait_s > _MAX_WAIT_S:
            raise SourceError(
                f"the server of {self._shown} asks to wait for {wait_s:.0f} s: try again then", retry_safe=True
            ) from None
        self._cancellation.wait(_FIRST_WAIT_S * 2 ** (self._n_failed - 1) if wait_s is None else wait_s)


def wait_asked_for(text: str) -> float | None:
    """Seconds in a Retry-After, which is a number of them or a date."""
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    with contextlib.suppress(ValueError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return None
