# SPDX-License-Identifier: MIT
"""The two streams of the epoch that a worker holds: its Feed, connected to the rest of the line, and its results.

LineServicer (worker/line.py) opens them on gRPC's threads; the holder ends them when it loads or unloads. Whoever
changes the state of the session does it under the lock of what is held.
"""

import time
from collections.abc import Callable

from protos.channels import Channels
from protos.contract import frame_limit_bytes
from worker import session
from worker.engine import Engine
from worker.errors import LeavingError, NeighbourError, NoSuchSessionError, StreamLostError, WrongEpochError
from worker.failures import Culprit, detail_of
from worker.feed import Feed
from worker.frames import Step
from worker.handover import Handover
from worker.held import Held
from worker.hop import Hop
from worker.results import Results
from worker.returning import ReturnedTokens, WayBack
from worker.session import LoadOrder, Phase, SessionState, StageSpec, StreamPhase
from worker.stage import Stage
from worker.voids import Voids
from worker.whereabouts import Whereabouts

_POLL_S = 0.02


class Streams:
    """At most one Feed, one Collect and one Return."""

    def __init__(
        self,
        held: Held,
        message_limit_bytes: int,
        channels: Channels,
        on_left: Callable[[Callable[[], bool]], None],
        whereabouts: Callable[[StageSpec], Whereabouts],
    ) -> None:
        """None is open.

        Args:
            message_limit_bytes: what its server lets through.
            on_left: told under the lock that a Feed ended, and given whether nobody has come back since, to be asked
                under the lock.
            whereabouts: of a stage, where is kept what is computed with it.
        """
        self._held = held
        self._message_limit_bytes = message_limit_bytes
        self._channels = channels
        self._on_left = on_left
        self._whereabouts = whereabouts
        self._feed: Feed | None = None
        self._results = Results()
        self._returned: ReturnedTokens | None = None
        self._n_frames = 0

    @property
    def culprit(self) -> Culprit:
        """Whose error an error is."""
        return self._held.culprit

    @property
    def is_computing(self) -> bool:
        """Whether a frame is computed right now."""
        feed = self._feed
        return feed is not None and feed.is_computing

    @property
    def n_frames(self) -> int:
        """Frames of the epoch that are finished."""
        feed = self._feed
        return self._n_frames if feed is None else feed.n_finished

    def begin_epoch(self) -> None:
        """A stage was loaded, whose frames are counted from here. Under the lock."""
        self._n_frames = 0

    def state(self) -> SessionState:
        """The state as others see it, under the lock: a coordinator that is gone has nobody wait for the step that was
        begun for it, which on a slow device takes seconds."""
        state = self._held.state
        is_left = state.is_serving and self._feed is not None and self._feed.is_over
        return session.leave(state) if is_left else state

    def open_feed(self, session_id: str, epoch: int) -> Feed:
        """A Feed whose rest of the line is connected; the caller enters and serves it. Blocks while connecting.

        Raises:
            NoSuchSessionError, WrongEpochError: not the epoch that is loaded, or its Feed is open or spent.
            NeighbourError: a stage behind this one cannot be reached, or refuses.
        """
        with self._held.lock:
            self._held.state = session.open_feed(self._held.state, session_id, epoch)
            order, stage, results = self._current()
            is_first = order.spec.layers.start == 0 and order.next_worker is not None
            # The last stage may return to it as soon as it is connected, which is before this one is.
            self._returned = ReturnedTokens(stage.n_vocab) if is_first else None
        hop = self._connect(order, stage) if order.next_worker is not None else None
        with self._held.lock:
            is_current = self._held.state.order is order and self._held.state.phase is Phase.READY
            if is_current:
                self._feed = self._make_feed(order, stage, hop or results)
            feed = self._feed
        if not is_current or feed is None:
            if hop is not None:
                hop.close()
            raise NoSuchSessionError(f"session {session_id} was replaced while its line was being connected")
        if hop is not None:
            hop.on_lost(feed.end)
        feed.open_way_back()
        return feed

    def open_collect(self, session_id: str, epoch: int) -> Results:
        """The epoch's results, to be read and then given to `close_collect`.

        Raises:
            NoSuchSessionError, WrongEpochError: not the epoch that is loaded, not the last stage, or taken.
        """
        with self._held.lock:
            self._held.state = session.open_collect(self._held.state, session_id, epoch)
            self._results.open()
            return self._results

    def close_collect(self, results: Results) -> None:
        """The reader is done, or went away: then the Feed has nowhere to go."""
        with self._held.lock:
            feed = self._feed
            is_current = results is self._results
            if is_current:
                self._held.state = session.end_collect(self._held.state)
            if is_current and feed is None:
                self._results = Results()
        if feed is not None and is_current and not results.is_over:
            feed.end(StreamLostError("the reader of the results went away; load a new epoch"))

    def open_return(self, session_id: str, epoch: int) -> ReturnedTokens:
        """Where the tokens go that the last stage returns.

        Raises:
            NoSuchSessionError, WrongEpochError: not the epoch that is loaded, not the first of several stages, or
                taken.
        """
        with self._held.lock:
            session.check_return(self._held.state, session_id, epoch)
            returned = self._returned
            if returned is None or returned.is_taken:
                raise WrongEpochError(f"a Return of epoch {epoch} is open already")
            returned.is_taken = True
            return returned

    def drain(self, timeout_s: float) -> None:
        """Lets the frames that are here be computed and go on, for `timeout_s` at most, then ends the streams."""
        deadline = time.monotonic() + timeout_s
        n_quiet = 0
        # Twice in a row: at one look a frame may be in somebody's hands.
        while n_quiet < 2 and time.monotonic() < deadline:
            feed = self._feed
            n_quiet = 0 if feed is not None and feed.is_busy else n_quiet + 1
            time.sleep(_POLL_S)
        with self._held.lock:
            feed, results = self._feed, self._results
        error = LeavingError(f"worker {self._held.worker} is shutting down")
        if feed is not None:
            feed.end(error)
        results.end(error)

    def end(self, error: Exception) -> None:
        """Ends Feed and Collect and waits until neither touches the stage."""
        with self._held.lock:
            feed, results = self._feed, self._results
            self._results = Results()
        if feed is not None:
            feed.end(error)
            feed.wait_closed()
        results.end(error)

    def _current(self) -> tuple[LoadOrder, Stage, Results]:
        order, stage = self._held.state.order, self._held.stage
        assert order is not None, "a READY state has an order"
        assert stage is not None, "a READY state has a stage"
        return order, stage, self._results

    def _connect(self, order: LoadOrder, stage: Stage) -> Hop:
        assert order.next_worker is not None, "only stages before the last have a hop"
        limit_bytes = frame_limit_bytes(stage.spec.params.n_batch, stage.layout.n_embd)
        hop = Hop(order, order.next_worker, min(limit_bytes, self._message_limit_bytes), self._channels)
        try:
            hop.connect()
        except BaseException:
            hop.close()
            with self._held.lock:
                if self._held.state.order is order and self._held.state.feed is StreamPhase.OPEN:
                    self._held.state = session.end_feed(self._held.state, n_frames=0)
            raise
        return hop

    def _make_feed(self, order: LoadOrder, stage: Stage, outlet: Hop | Results) -> Feed:
        returned = self._returned
        way_back = WayBack(order, order.first_worker, self._channels) if order.first_worker is not None else None

        def make_engine(inbox: Handover[Step], voids: Voids) -> Engine:
            return Engine(
                worker=self._held.worker,
                context=stage.context,
                samplers=stage.samplers,
                inbox=inbox,
                voids=voids,
                outlet=outlet,
                whereabouts=self._whereabouts(stage.spec),
                returned=returned,
                way_back=way_back,
            )

        return Feed(
            limits=stage.limits(order, self._message_limit_bytes // 2),
            make_engine=make_engine,
            outlet=outlet,
            on_end=lambda feed, error: self._feed_ended(feed, order, error),
            returned=returned,
            way_back=way_back,
        )

    def _feed_ended(self, feed: Feed, order: LoadOrder, error: Exception | None) -> None:
        with self._held.lock:
            self._feed = None
            if self._held.state.order is not order or self._held.state.phase is not Phase.READY:
                return

            def is_over() -> bool:
                return self._held.state.order is order and self._held.state.is_over

            self._on_left(is_over)
            self._n_frames = feed.n_finished
            no_fault = error is None or isinstance(error, StreamLostError | LeavingError)
            if no_fault or (isinstance(error, NeighbourError) and feed.n_started == 0):
                self._held.state = session.end_feed(self._held.state, n_frames=feed.n_started)
            elif error is not None:
                self._held.state = session.fail(self._held.state, detail_of(error, self._held.culprit))
            self._results = Results()
