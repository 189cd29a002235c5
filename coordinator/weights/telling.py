# SPDX-License-Identifier: MIT
"""The loads of a line, all at once, and what is told of them meanwhile. On the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from coordinator.events import LoadEvent, LoadPhase, OnProgress
from coordinator.plan import Stage, shown
from coordinator.weights.progress import LoadMeter, LoadReport

T = TypeVar("T")

_TICK_S = 0.5
"""How often something is told when no worker says anything: a link that stands still is seen, and can be called off."""


class LineTelling:
    """Of one line's stages."""

    def __init__(self, stages: Sequence[Stage], on_progress: OnProgress) -> None:
        self._stages = stages
        self._on_progress = on_progress
        self._meter = LoadMeter((stage.worker for stage in stages), time.monotonic)

    def note(self, stage: Stage, report: LoadReport) -> None:
        """A worker said how far it is."""
        self._meter.note(stage.worker, report)
        self._tell(stage)

    async def during(self, loads: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """What they give, in the order of the stages. When one fails, or whoever is told raises, the others are
        cancelled, and over when this returns."""
        tasks = [asyncio.ensure_future(self._one(stage, load)) for stage, load in zip(self._stages, loads, strict=True)]
        ticking = asyncio.ensure_future(self._tick())
        try:
            loaded = asyncio.gather(*tasks)
            either: set[asyncio.Future[Any]] = {loaded, ticking}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if ticking.done():
                ticking.result()
            return list(await loaded)
        finally:
            everything = [*tasks, ticking]
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)

    async def _one(self, stage: Stage, load: Callable[[], Awaitable[T]]) -> T:
        self._tell(stage)
        result = await load()
        self._meter.finish(stage.worker)
        self._tell(stage)
        return result

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for stage in self._stages:
                if self._meter.is_fetching(stage.worker):
                    self._tell(stage)

    def _tell(self, stage: Stage) -> None:
        meter = self._meter
        self._on_progress(
            LoadEvent(
                LoadPhase.LOADING,
                f"{stage.worker} loads {shown(stage.layers)}",
                worker=stage.worker,
                layers=stage.layers,
                fraction=meter.fraction(stage.worker),
                transfer=meter.transfer(stage.worker),
                total_fraction=meter.total_fraction,
                total=meter.total,
            )
        )
