# SPDX-License-Identifier: MIT
"""How fast bytes may be asked for. Pure: the clock is the caller's, and so is the waiting."""

# What may come at once after a pause.
_BURST_S = 0.1
# Less is no wait: a clock may not tell it from none.
_LEAST_WAIT_S = 1e-3


class Throttle:
    """A bucket that fills with `bytes_per_s`, and may be overdrawn by one request. Not thread-safe."""

    def __init__(self, bytes_per_s: int, now: float) -> None:
        """`now` in seconds, of any clock that does not go backwards; 0 bytes per second: no limit."""
        self._bytes_per_s = bytes_per_s
        self._room_bytes = bytes_per_s * _BURST_S
        self._filled_at = now

    def wait_s(self, now: float) -> float:
        """How long until something may be asked for; 0: now."""
        if self._bytes_per_s == 0:
            return 0.0
        filled_bytes = (now - self._filled_at) * self._bytes_per_s
        self._room_bytes = min(self._room_bytes + filled_bytes, self._bytes_per_s * _BURST_S)
        self._filled_at = now
        return 0.0 if self._room_bytes >= 0 else max(-self._room_bytes / self._bytes_per_s, _LEAST_WAIT_S)

    def take(self, n_bytes: int) -> None:
        """So many are asked for."""
        self._room_bytes -= n_bytes
