# SPDX-License-Identifier: MIT
"""How far the weights of a line are: what every worker reports while it loads, made into speeds, remaining times and a
total. Pure; the clock is handed in.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

_WINDOW_S = 4.0
"""Speed is that of so long: shorter, it jumps; longer, it tells of what was."""

_SAMPLE_EVERY_S = 0.1


class WeightOrigin(str, Enum):
    """Where weights of a stage came from."""

    STORE = "store"
    """The worker's own, of a load before."""
    FILE = "file"
    """A file on the worker's machine."""
    PEER = "peer"
    """Another worker."""
    INTERNET = "internet"
    """A server that the worker read itself."""
    COORDINATOR = "coordinator"
    WARM = "warm"
    """Nothing came: the stage was still loaded."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class WeightShare:
    """Bytes of a stage from one source; `worker` is which, with PEER."""

    origin: WeightOrigin
    worker: str
    n_bytes: int


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a worker says of its load.

    Attributes:
        fraction: Of the whole load, fetching included: 0 to 1.
        to_fetch_bytes: What had to come from elsewhere; 0: all of it was there.
        fetched_bytes: What of it has come.
    """

    fraction: float = 0.0
    to_fetch_bytes: int = 0
    fetched_bytes: int = 0
    shares: tuple[WeightShare, ...] = ()


@dataclass(frozen=True, slots=True)
class Transfer:
    """Weights on their way, to one worker or to all of a line.

    Attributes:
        bytes_per_s: Of the last seconds.
        shares: Bytes by source, so far.
    """

    to_fetch_bytes: int = 0
    fetched_bytes: int = 0
    bytes_per_s: float = 0.0
    shares: tuple[WeightShare, ...] = ()

    @property
    def remaining_s(self) -> float | None:
        """Until the rest has come at this speed; None where none comes."""
        left = self.to_fetch_bytes - self.fetched_bytes
        if left <= 0:
            return 0.0
        return left / self.bytes_per_s if self.bytes_per_s > 0 else None


@dataclass(slots=True)
class _Course:
    """One worker's reports; `samples` are times and bytes fetched by then."""

    report: LoadReport = field(default_factory=LoadReport)
    samples: deque[tuple[float, int]] = field(default_factory=deque)
    is_over: bool = False

    def note(self, report: LoadReport, now_s: float) -> None:
        self.report = report
        if not self.samples or now_s - self.samples[-1][0] >= _SAMPLE_EVERY_S:
            self.samples.append((now_s, report.fetched_bytes))

    def bytes_per_s(self, now_s: float) -> float:
        # The one before the window stays: a rate needs a beginning.
        while len(self.samples) > 1 and self.samples[1][0] <= now_s - _WINDOW_S:
            self.samples.popleft()
        if not self.samples or now_s <= self.samples[0][0]:
            return 0.0
        began_s, had_bytes = self.samples[0]
        return max(0.0, (self.report.fetched_bytes - had_bytes) / (now_s - began_s))


class LoadMeter:
    """Of the loads of one line.

    Args:
        workers: All that load.
        clock: Seconds that only grow.
    """

    def __init__(self, workers: Iterable[str], clock: Callable[[], float]) -> None:
        self._courses = {worker: _Course() for worker in workers}
        self._clock = clock

    def note(self, worker: str, report: LoadReport) -> None:
        """What a worker said."""
        self._courses[worker].note(_sane(report), self._clock())

    def fraction(self, worker: str) -> float:
        """Of that worker's load."""
        return self._courses[worker].report.fraction

    def transfer(self, worker: str) -> Transfer:
        """To that worker."""
        course = self._courses[worker]
        report = course.report
        return Transfer(report.to_fetch_bytes, report.fetched_bytes, course.bytes_per_s(self._clock()), report.shares)

    def finish(self, worker: str) -> None:
        """It has loaded."""
        course = self._courses[worker]
        course.report = replace(course.report, fraction=1.0)
        course.is_over = True

    def is_fetching(self, worker: str) -> bool:
        """Whether something is still to come there."""
        course = self._courses[worker]
        return not course.is_over and course.report.fetched_bytes < course.report.to_fetch_bytes

    @property
    def total_fraction(self) -> float:
        """Of all loads."""
        return sum(map(self.fraction, self._courses)) / max(1, len(self._courses))

    @property
    def total(self) -> Transfer:
        """To all of them."""
        transfers = [self.transfer(worker) for worker in self._courses]
        by_source: dict[tuple[WeightOrigin, str], int] = {}
        for share in (share for transfer in transfers for share in transfer.shares):
            by_source[share.origin, share.worker] = by_source.get((share.origin, share.worker), 0) + share.n_bytes
        return Transfer(
            sum(transfer.to_fetch_bytes for transfer in transfers),
            sum(transfer.fetched_bytes for transfer in transfers),
            sum(transfer.bytes_per_s for transfer in transfers),
            tuple(WeightShare(origin, worker, n_bytes) for (origin, worker), n_bytes in by_source.items()),
        )


def _sane(report: LoadReport) -> LoadReport:
    """Without what cannot be: it came over a network."""
    fraction = min(1.0, max(0.0, report.fraction)) if math.isfinite(report.fraction) else 0.0
    fetched_bytes = min(report.fetched_bytes, report.to_fetch_bytes)
    return LoadReport(fraction, report.to_fetch_bytes, fetched_bytes, report.shares)
