# SPDX-License-Identifier: MIT
"""Benchmarks: how long layer ranges of a model take on this worker's device. Called on gRPC's threads; what has to be
measured is measured on the loading thread, one stage after another.
"""

from collections.abc import Callable
from dataclasses import dataclass

from worker.holder import Holder
from worker.loading import Report
from worker.session import StageSpec
from worker.stage import Stage
from worker.timing import Point, time_stage


@dataclass(frozen=True, slots=True)
class BenchmarkOrder:
    """Which stages to measure, each alone, with which batches (ascending), and how many seconds each may compute."""

    runs: tuple[StageSpec, ...]
    batch_sizes: tuple[int, ...]
    limit_s: float


@dataclass(frozen=True, slots=True)
class Benchmarked:
    """The points of each run, in the order asked for; `was_remembered`: nothing had to be measured."""

    runs: tuple[tuple[Point, ...], ...]
    was_remembered: bool


class Benchmarks:
    """Measures what a holder's device can do."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder

    def run(self, order: BenchmarkOrder, on_start: Callable[[Callable[[], None]], None]) -> Benchmarked:
        """Blocks for as long as it takes to load and to compute.

        Args:
            on_start: is given what cancels it, once it is under way.

        Raises:
            InUseError, LoadUnderWayError: a stage is in the way; nothing was done.
            CallError, NativeError: as Load; LoadCancelledError among them.
        """

        def measure(stage: Stage, report: Report) -> tuple[Point, ...]:
            return time_stage(stage, order.batch_sizes, order.limit_s, report)

        measuring = self._holder.try_stages(order.runs, measure)
        on_start(measuring.cancel)
        return Benchmarked(measuring.wait(), was_remembered=False)
