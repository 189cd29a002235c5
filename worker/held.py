# SPDX-License-Identifier: MIT
"""What a worker holds: the state of its one session, and the stage that belongs to it.

Changed by the holder (worker/holder.py), which loads and drops, and by its streams (worker/streams.py), on gRPC's
threads, the loading thread and a countdown's. While the state is LOADING or UNLOADING the stage belongs to the one
thread that is at it.
"""

import threading

from native import MemoryUse
from worker.failures import Culprit
from worker.session import IDLE, Phase, SessionState
from worker.stage import Stage


class Held:
    """Nothing at first. `state` and `stage` change under `lock`, which is never held while something blocks."""

    def __init__(self, worker: str) -> None:
        """`worker`: the name that errors and timings carry."""
        self.worker = worker
        self.lock = threading.Lock()
        self.state: SessionState = IDLE
        self.stage: Stage | None = None

    @property
    def culprit(self) -> Culprit:
        """Whose error an error is: this worker's, and its stage's if there is one."""
        state = self.state
        order = None if state.phase is Phase.WARM else state.order
        return Culprit(self.worker, None if order is None else order.spec.layers)

    def memory(self) -> MemoryUse:
        """What the stage that is loaded takes."""
        with self.lock:
            return MemoryUse(0, 0, 0, 0) if self.stage is None else self.stage.memory

    def drop_stage(self) -> None:
        """Frees it, if there is one; nobody may be at it any more."""
        with self.lock:
            stage, self.stage = self.stage, None
        if stage is not None:
            stage.close()
