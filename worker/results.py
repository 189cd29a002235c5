# SPDX-License-Identifier: MIT
"""Results on their way from the last stage's engine to the one Collect that reads them.

The engine thread puts, the Collect's gRPC thread takes; a Feed that ends, for whatever reason, ends it.
"""

import threading
import time
from collections.abc import Iterator

from protos.caravan.v1 import frame_pb2
from worker.errors import BadFrameError
from worker.handover import Handover

# Enough that the engine never waits for a reader that reads; one that does not read holds up the line.
CAPACITY = 8


class Results:
    """The outlet of a last stage: one per Feed and Collect."""

    def __init__(self) -> None:
        self._queue: Handover[frame_pb2.Result] = Handover(CAPACITY)
        self._lock = threading.Lock()
        self._is_read = False
        self._is_over = False
        self._error: Exception | None = None

    @property
    def is_over(self) -> bool:
        """Whether the Feed ended, well or not: the reader may go."""
        return self._is_over

    @property
    def n_waiting(self) -> int:
        """Results that the reader has not taken yet, roughly."""
        return self._queue.n_waiting

    def put(self, result: frame_pb2.Result) -> bool:
        """Hands a result to the reader, waiting while it is behind; False: it is over.

        Raises:
            BadFrameError: nobody has opened a Collect.
        """
        if not self._is_read:
            raise BadFrameError("a frame came before a Collect was open for its result; open that first")
        return self._queue.put(result)

    def finish(self) -> None:
        """The Feed ended well: the reader gets what waits, then the end."""
        self._is_over = True
        self._queue.finish()

    def end(self, error: Exception) -> None:
        """The Feed ended otherwise: the reader gets `error` next. The first reason stays."""
        with self._lock:
            self._error = self._error or error
            self._is_over = True
        self._queue.close()

    def open(self) -> None:
        """A Collect reads from now on."""
        self._is_read = True

    def leave(self) -> None:
        """The reader goes: its iteration ends, nothing more can be put."""
        self._queue.close()

    def __iter__(self) -> Iterator[frame_pb2.Result]:
        """Results in frame order, each stamped as it is sent; raises what the Feed ended with."""
        for result in self._queue:
            result.timings[-1].sent_ns = time.monotonic_ns()
            yield result
        if self._error is not None:
            raise self._error
