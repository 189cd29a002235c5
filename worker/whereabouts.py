# SPDX-License-Identifier: MIT
"""Where a stage is in its frames, on this process's slate: what its supervisor can tell when it died in one. Called by
the engine, on its thread.
"""

import numpy as np
from numpy.typing import NDArray

from native import LayerRange
from protos.slate import Slate
from worker.frames import Step

# Ids below which a set in Python is faster than numpy.
_FEW = 64


class Whereabouts:
    """For one engine: one session and epoch, one layer range."""

    def __init__(self, slate: Slate, layers: LayerRange) -> None:
        self._slate = slate
        self._layers = layers

    def begin(self, step: Step) -> None:
        """This step is being computed."""
        frame, batch = step.frame, step.batch
        number = frame.number
        if number == 1:
            self._slate.note_stage(frame.session_id, frame.epoch, self._layers.start, self._layers.end)
        if batch is None:
            self._slate.note_frame(number, 0, 0, False)
            return
        n_tokens = len(batch.tokens)
        self._slate.note_frame(number, n_tokens, _n_different(batch.seq_ids), n_tokens > len(frame.outputs))

    def end(self) -> None:
        """No step is."""
        self._slate.note_end_of_frame()


def _n_different(seq_ids: NDArray[np.int32]) -> int:
    if len(seq_ids) <= _FEW:
        return len(set(seq_ids.tolist()))
    return int(np.count_nonzero(np.bincount(seq_ids)))
