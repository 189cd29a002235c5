# SPDX-License-Identifier: MIT
"""One Feed from its opening to its end: reader, engine and outlet, and which of them ended it.

Threads: the gRPC thread of the call waits in `serve`; a reader thread takes frames off the call, checks them and
fills the inbox; the engine thread empties it into the outlet. The first failure, whoever has it, ends all three.
"""

import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

import grpc

from protos.caravan.v1 import frame_pb2
from worker.engine import Engine
from worker.errors import StreamLostError
from worker.frames import FrameLimits, Step, check_frame, check_void_frames
from worker.handover import Handover
from worker.hop import Hop
from worker.results import Results
from worker.returning import ReturnedTokens, WayBack
from worker.voids import Voids

# Frames received and checked while one is computed. A line keeps about one frame per stage in flight; more would
# only hold memory that the caller's own queue can hold.
INBOX_CAPACITY = 4
# gRPC's server tells of a broken call in two events; the second one follows within a millisecond.
_BREAK_FOLLOWS_S = 0.03


class Feed:
    """The frames of one epoch on this stage. A context manager for the call's own thread; leaving it waits until no
    thread of the Feed touches the stage any more. `end` and the properties are for any thread.
    """

    def __init__(
        self,
        *,
        limits: FrameLimits,
        make_engine: Callable[[Handover[Step], Voids], Engine],
        outlet: Hop | Results,
        on_end: Callable[["Feed", Exception | None], None],
        returned: ReturnedTokens | None = None,
        way_back: WayBack | None = None,
    ) -> None:
        """The outlet, `returned` and `way_back` are the engine's, and end with the Feed.

        Args:
            on_end: told once, at the very end, how it ended: None for well.
        """
        self._limits = limits
        self._inbox: Handover[Step] = Handover(INBOX_CAPACITY)
        self._voids = Voids()
        self._engine = make_engine(self._inbox, self._voids)
        self._engine_thread = threading.Thread(target=self._compute, name="engine", daemon=True)
        self._outlet = outlet
        self._on_end = on_end
        self._returned = returned
        self._way_back = way_back
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._over = threading.Event()
        self._closed = threading.Event()

    @property
    def n_started(self) -> int:
        """Frames that the engine took up."""
        return self._engine.n_started

    @property
    def n_finished(self) -> int:
        """Frames that the engine finished."""
        return self._engine.n_finished

    @property
    def is_over(self) -> bool:
        """Whether it takes no more frames; a step that was begun may still be computed."""
        return self._over.is_set()

    @property
    def is_computing(self) -> bool:
        """Whether a frame is being worked on, or waits to be."""
        return self._engine.is_computing or self._inbox.n_waiting > 0

    @property
    def is_busy(self) -> bool:
        """Whether a frame is here, in whatever state."""
        return self._inbox.n_waiting > 0 or self._engine.is_busy or self._outlet.n_waiting > 0

    def serve(self, requests: Iterator[frame_pb2.FeedRequest]) -> int:
        """Runs the Feed to its end and returns how many frames were finished. Blocks; once.

        Args:
            requests: the call's own iterator; read on the reader thread until it ends or fails.

        Raises:
            Exception: what ended it otherwise; worker.errors.detail_of knows what to tell the caller.
        """
        reader = threading.Thread(target=self._read, args=(requests,), name="feed-reader", daemon=True)
        reader.start()
        self._engine_thread.start()
        self._over.wait()
        self._engine_thread.join()
        if self._error is not None:
            raise self._error
        return self._engine.n_finished

    def open_way_back(self) -> None:
        """On the last of several stages: begins to connect to the first one."""
        if self._way_back is not None:
            self._way_back.connect(self.end)

    def end(self, error: Exception) -> None:
        """Ends it with this error unless it is over: what waits is dropped, a step under way is finished."""
        if self._conclude(error):
            self._inbox.close()
            self._outlet.end(error)
            if self._returned is not None:
                self._returned.end()
            if self._way_back is not None:
                self._way_back.end()

    def abandon(self) -> None:
        """The caller went away."""
        self.end(StreamLostError("the stage before, or the coordinator, went away; load a new epoch"))

    def wait_closed(self) -> None:
        """Blocks until the call's thread has left it; after `end` that takes one step at most."""
        self._closed.wait()

    def __enter__(self) -> "Feed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()
        if self._engine_thread.ident is not None:
            self._engine_thread.join()
        if isinstance(self._outlet, Hop):
            self._outlet.close()
        if self._way_back is not None:
            self._way_back.close()
        self._on_end(self, self._error)
        self._closed.set()

    def _read(self, requests: Iterator[frame_pb2.FeedRequest]) -> None:
        number = 0
        try:
            for request in requests:
                if request.HasField("void_frames"):
                    self._note_voids(request, number)
                    continue
                number += 1
                step = check_frame(request, number=number, limits=self._limits, arrived_ns=time.monotonic_ns())
                if not self._inbox.put(step):
                    return
        except grpc.RpcError:
            self.abandon()
        except Exception as error:
            self.end(error)
        else:
            self._end_of_requests()

    def _note_voids(self, request: frame_pb2.FeedRequest, last_number: int) -> None:
        self._voids.note(check_void_frames(request.void_frames, last_number=last_number))
        if isinstance(self._outlet, Hop):
            self._outlet.put_word(request)

    def _end_of_requests(self) -> None:
        """The caller half-closed; or its connection broke, which gRPC may report as an end, and then as what it is."""
        if not self._over.wait(_BREAK_FOLLOWS_S):
            self._inbox.finish()

    def _compute(self) -> None:
        try:
            # An outlet that takes nothing more was closed by somebody who is about to say why.
            if self._engine.run() and not self._over.is_set():
                self._outlet.finish()
                if self._way_back is not None:
                    self._way_back.finish()
                self._conclude(None)
        except Exception as error:
            self.end(error)

    def _conclude(self, error: Exception | None) -> bool:
        """Settles how it ended; False: that is settled already."""
        with self._lock:
            if self._over.is_set():
                return False
            self._error = error
            self._over.set()
            return True
