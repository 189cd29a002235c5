# SPDX-License-Identifier: MIT
"""A model that is to be loaded on this machine as a whole: its file here, fetched where it is elsewhere. On the event
loop.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from coordinator.events import LoadEvent, LoadPhase, OnProgress
from coordinator.weights.errand import Errand, FetchStep
from coordinator.weights.progress import Transfer
from coordinator.weights.source import WeightSource
from coordinator.weights.sources import on_own_thread
from coordinator.weights.whole import whole_file


async def file_here(source: WeightSource, max_bytes_per_s: int | None, on_progress: OnProgress) -> Path:
    """The model's (first) file, when all of them are here.

    Raises:
        CaravanError: As `whole_file`.
    """
    loop = asyncio.get_running_loop()

    def tell(step: FetchStep) -> None:
        loop.call_soon_threadsafe(lambda: on_progress(fetch_event(step)))

    errand = Errand(tell, max_bytes_per_s)
    try:
        return await on_own_thread(lambda: whole_file(source, errand), "caravan-whole-file")
    except BaseException:
        errand.cancellation.cancel()
        raise


def fetch_event(step: FetchStep) -> LoadEvent:
    """What to tell of what comes to this machine."""
    fraction = step.done_bytes / step.total_bytes if step.total_bytes else 0.0
    return LoadEvent(
        LoadPhase.FETCHING, step.message, fraction=fraction, transfer=Transfer(step.total_bytes or 0, step.done_bytes)
    )
