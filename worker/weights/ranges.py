# SPDX-License-Identifier: MIT
"""Which bytes of a tensor are written: a set of half-open ranges. Pure."""

import bisect


class Ranges:
    """Ranges [start, end) that touch are one."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def n_bytes(self) -> int:
        """In all of them."""
        return sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Adds one; it may overlap what is there."""
        if start >= end:
            return
        first = bisect.bisect_left(self._ends, start)
        last = bisect.bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, start: int, end: int) -> None:
        """Takes [start, end) out of them, as far as it is there."""
        kept = Ranges()
        for a, b in zip(self._starts, self._ends, strict=True):
            kept.add(a, min(b, start))
            kept.add(max(a, end), b)
        self._starts, self._ends = kept._starts, kept._ends

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any byte of [start, end) is in them."""
        at = bisect.bisect_right(self._ends, start)
        return start < end and at < len(self._starts) and self._starts[at] < end

    def end_from(self, start: int) -> int:
        """How far bytes follow each other without a gap from `start`; `start` itself if that one is missing."""
        at = bisect.bisect_right(self._starts, start) - 1
        return max(start, self._ends[at]) if at >= 0 else start

    def missing(self, n_bytes: int) -> list[tuple[int, int]]:
        """The gaps in [0, n_bytes), ascending."""
        bounds = [0, *(bound for pair in zip(self._starts, self._ends, strict=True) for bound in pair), n_bytes]
        return [(a, b) for a, b in zip(bounds[::2], bounds[1::2], strict=True) if a < b]
