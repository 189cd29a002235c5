# SPDX-License-Identifier: MIT
"""How the workers of the lines are, as they last said: memory, load, temperature. For `/line`, on the server's event
loop. They are asked beside it, and only while somebody looks: to measure takes them a tenth of a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from coordinator.mesh import AsyncMesh
from coordinator.workers import FoundWorker

_EVERY_S = 3.0
"""Temperatures and memory change slowly."""


class WorkerWatch:
    """What workers said last, by name."""

    def __init__(self) -> None:
        self._said: dict[str, FoundWorker] = {}
        self._asking: asyncio.Task[None] | None = None
        self._asked_s = float("-inf")

    def look(self, mesh: AsyncMesh) -> Mapping[str, FoundWorker]:
        """What is known now, at once; if that is old, they are asked for the next look."""
        is_asking = self._asking is not None and not self._asking.done()
        if not is_asking and time.monotonic() - self._asked_s >= _EVERY_S:
            self._asked_s = time.monotonic()
            self._asking = asyncio.get_running_loop().create_task(self._ask(mesh))
        return self._said

    async def _ask(self, mesh: AsyncMesh) -> None:
        self._said = {worker.name: worker for worker in await mesh.workers()}
