# SPDX-License-Identifier: MIT
"""The one session that a worker holds: loads and drops its stage, hands out its streams, knows its state.

The servicers call it on gRPC's threads, at once and in any order. Its lock guards the state and is never held while
something blocks; while the state is LOADING or UNLOADING the stage belongs to that one thread. Stages that are only
tried (a benchmark) belong to the loading thread alone.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from native import Device, LayerRange, MemoryUse, ModelLayout, NativeError, find_device
from protos.caravan.v1 import error_pb2
from protos.channels import Channels
from protos.contract import frame_limit_bytes
from worker import session
from worker.cards import Place, free_beside, room_for
from worker.countdown import Countdown
from worker.engine import Engine
from worker.errors import (
    BadRequestError,
    LeavingError,
    NeighbourError,
    NoSuchSessionError,
    StreamLostError,
    WrongEpochError,
)
from worker.failures import Culprit, detail_of
from worker.feed import Feed
from worker.frames import Step
from worker.handover import Handover
from worker.hop import Hop
from worker.loading import Loading, Report, Reporter
from worker.memory import MemoryLimits
from worker.model_files import ModelFiles
from worker.results import Results
from worker.session import IDLE, LoadOrder, Phase, SessionState, StageSpec, StreamPhase
from worker.stage import Stage
from worker.stage_loader import StageLoader
from worker.weights.progress import FetchProgress
from worker.weights.sources import Origin, Source

_LOG = logging.getLogger(__name__)

_POLL_S = 0.02
# For a coordinator whose streams broke to load its session anew. Then that is over.
_COMES_BACK_S = 30.0

_Seen = TypeVar("_Seen")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A stage that is loaded, for reports; a warm one is of no session."""

    session_id: str
    epoch: int
    layers: LayerRange
    memory: MemoryUse
    is_serving: bool
    is_warm: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """What the worker does right now; `error` says why, if its epoch failed."""

    phase: Phase
    is_computing: bool
    session_id: str
    epoch: int
    n_frames: int
    error: error_pb2.ErrorDetail | None


class Holder:
    """At most one session's stage, on one device or several cards."""

    def __init__(
        self,
        *,
        worker: str,
        place: Place,
        limits: MemoryLimits,
        files: ModelFiles,
        loader: StageLoader,
        message_limit_bytes: int,
        keep_loaded_s: float,
        channels: Channels,
    ) -> None:
        """Holds nothing.

        Args:
            worker: the name that errors and timings carry.
            message_limit_bytes: what its server lets through.
            keep_loaded_s: how long a stage stays whose session is over; 0: not at all.
        """
        self._worker = worker
        self.place = place
        self._limits = place.limits(limits)
        self._files = files
        self._loader = loader
        self._message_limit_bytes = message_limit_bytes
        self._keep_loaded_s = keep_loaded_s
        self._channels = channels
        self._countdown = Countdown()
        self._lock = threading.Lock()
        self._state: SessionState = IDLE
        self._stage: Stage | None = None
        self._loading: Loading[object] | None = None
        self._feed: Feed | None = None
        self._results = Results()
        self._n_frames = 0

    @property
    def culprit(self) -> Culprit:
        """Whose error an error is: this worker's, and its stage's if there is one."""
        state = self._state
        order = None if state.phase is Phase.WARM else state.order
        return Culprit(self._worker, None if order is None else order.spec.layers)

    def device(self) -> Device:
        """The device as this worker may use it, its free memory read now."""
        return self._limits.apply(self.place.device(), self._held().device_bytes)

    def shared_free_bytes(self) -> int:
        """Free on the device for all workers on it together, now."""
        return self._limits.shared(self.place.device())

    def host_free_bytes(self) -> int:
        """What this worker may use now of system memory beside its device, for experts."""
        if not self.place.takes_experts_beside:
            return 0
        return self._limits.host_free(self.place.device(), find_device("CPU"), self._held())

    def find_model(self, spec: StageSpec, *, whole: bool = False) -> ModelLayout:
        """The layout of the file that `spec` means, checked against what is asked of it; `whole`: with its weights.

        Raises:
            CallError, NativeError: as Load.
        """
        layout = self._files.find_whole(spec) if whole else self._files.find(spec)
        self._check_message_size(spec, layout)
        return layout

    def dry_run(self, spec: StageSpec) -> tuple[MemoryUse, int]:
        """What a stage would take here, and bytes there are for it beside what is loaded, which stays as it is.

        Raises:
            CallError, NativeError: as Load.
        """
        layout = self.find_model(spec)
        held = self._held()
        free_bytes = free_beside(held, self.place.free_bytes())
        use = self._loader.placed(spec, layout, free_bytes).memory
        limit_bytes = self.device().free_bytes + held.device_bytes
        return use, max(0, room_for(use, free_bytes, limit_bytes) - held.device_bytes)

    def load(self, order: LoadOrder) -> Loading[None] | None:
        """Starts loading; None: exactly this is loaded. What was loaded before is over, its streams end.

        Raises:
            CallError, NativeError: refused before anything changed.
        """
        with self._lock:
            if session.is_loaded(self._state, order):
                return None
            session.begin_load(self._as_served(), order)
        layout = self.find_model(order.spec, whole=order.sources is None)
        with self._lock:
            before, self._state = self._state, session.begin_load(self._as_served(), order)
            loading = Loading(lambda report: self._load(before, order, layout, report))
            self._loading = loading
            return loading

    def try_stages(
        self, specs: Sequence[StageSpec], look: Callable[[Stage, Report], _Seen]
    ) -> Loading[tuple[_Seen, ...]]:
        """Starts loading one stage after another, lets `look` use it, and frees it; gives what `look` returned.

        Until that is over nothing else is loaded; a warm stage is let go first.

        Raises:
            InUseError, LoadUnderWayError: a stage is loaded, or a load or the like is under way.
            CallError, NativeError: as Load, refused before anything changed.
        """
        layouts = [self.find_model(spec) for spec in specs]
        with self._lock:
            self._state = session.begin_benchmark(self._state)
            loading = Loading(lambda report: self._try_stages(specs, layouts, look, report))
            self._loading = loading
            return loading

    def loaded(self) -> Loaded | None:
        """The stage that is loaded, if one is."""
        with self._lock:
            state, stage = self._state, self._stage
            if stage is None or state.phase not in (Phase.READY, Phase.FAILED, Phase.WARM):
                return None
            if state.phase is Phase.WARM:
                return Loaded("", 0, stage.spec.layers, stage.memory, is_serving=False, is_warm=True)
            is_serving = self._as_served().is_serving
            return Loaded(state.session_id, state.epoch, stage.spec.layers, stage.memory, is_serving)

    def unload(self, session_id: str, *, may_keep: bool = False) -> bool:
        """Ends the session, or cancels its load; False: it is not here. Blocks for one step at most.

        Args:
            session_id: empty, or that of the last session: a stage that is warm, too.
            may_keep: the stage may stay warm; else it is freed.
        """
        while True:
            with self._lock:
                state = self._state
                is_meant = state.phase is Phase.WARM and not may_keep and session_id in ("", state.session_id)
                is_here = state.order is not None and state.session_id == session_id
                if not is_meant and (not is_here or state.phase in (Phase.UNLOADING, Phase.WARM)):
                    return False
                loading = self._loading if state.phase is Phase.LOADING else None
                if loading is None:
                    self._state = session.begin_unload(state)
                    break
            loading.cancel()
            loading.settle()
        self._unload(may_keep=may_keep)
        return state.phase is not Phase.WARM

    def health(self) -> Health:
        """Cheap; answers also while the engine computes or a load runs."""
        with self._lock:
            state, feed = self._state, self._feed
            return Health(
                phase=state.phase,
                is_computing=feed is not None and feed.is_computing,
                session_id="" if state.phase is Phase.WARM else state.session_id,
                epoch=0 if state.phase is Phase.WARM else state.epoch,
                n_frames=self._n_frames if feed is None else feed.n_finished,
                error=state.error,
            )

    def open_feed(self, session_id: str, epoch: int) -> Feed:
        """A Feed whose rest of the line is connected; the caller enters and serves it. Blocks while connecting.

        Raises:
            NoSuchSessionError, WrongEpochError: not the epoch that is loaded, or its Feed is open or spent.
            NeighbourError: a stage behind this one cannot be reached, or refuses.
        """
        with self._lock:
            self._state = session.open_feed(self._state, session_id, epoch)
            order, stage, results = self._current()
        hop = self._connect(order, stage) if order.next_worker is not None else None
        with self._lock:
            is_current = self._state.order is order and self._state.phase is Phase.READY
            if is_current:
                self._feed = self._make_feed(order, stage, hop or results)
            feed = self._feed
        if not is_current or feed is None:
            if hop is not None:
                hop.close()
            raise NoSuchSessionError(f"session {session_id} was replaced while its line was being connected")
        if hop is not None:
            hop.on_lost(feed.end)
        return feed

    def open_collect(self, session_id: str, epoch: int) -> Results:
        """The epoch's results, to be read and then given to `close_collect`.

        Raises:
            NoSuchSessionError, WrongEpochError: not the epoch that is loaded, not the last stage, or taken.
        """
        with self._lock:
            self._state = session.open_collect(self._state, session_id, epoch)
            self._results.open()
            return self._results

    def close_collect(self, results: Results) -> None:
        """The reader is done, or went away: then the Feed has nowhere to go."""
        with self._lock:
            feed = self._feed
            is_current = results is self._results
            if is_current:
                self._state = session.end_collect(self._state)
            if is_current and feed is None:
                self._results = Results()
        if feed is not None and is_current and not results.is_over:
            feed.end(StreamLostError("the reader of the results went away; load a new epoch"))

    def drain(self, timeout_s: float) -> None:
        """Lets the frames that are here be computed, for `timeout_s` at most, then ends the streams."""
        deadline = time.monotonic() + timeout_s
        while self.health().is_computing and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        with self._lock:
            feed, results = self._feed, self._results
        error = LeavingError(f"worker {self._worker} is shutting down")
        if feed is not None:
            feed.end(error)
        results.end(error)

    def close(self) -> None:
        """Drops everything; the servicers must be gone."""
        with self._lock:
            session_id, loading = self._state.session_id, self._loading
        if loading is not None:
            loading.cancel()
            loading.settle()
        self.unload(session_id)
        self._countdown.end()

    def _load(self, before: SessionState, order: LoadOrder, layout: ModelLayout, report: Reporter) -> None:
        """On the loading thread: brings the stage to `order`, or to nothing."""
        try:
            self._end_streams(
                WrongEpochError(f"session {order.session_id} was loaded on this worker, at epoch {order.epoch}")
            )
            self._bring_stage(before, order, layout, report)
        except BaseException:
            self._drop_stage()
            with self._lock:
                self._state = IDLE
            raise
        with self._lock:
            self._state = session.finish_load(self._state)
            self._n_frames = 0

    def _bring_stage(self, before: SessionState, order: LoadOrder, layout: ModelLayout, report: Reporter) -> None:
        """Weights stay where they are when only the session or the epoch is new."""
        if self._take_over(before, order, layout, report):
            return
        self._drop_stage()
        stage = self._loader.load(order, layout, report)
        with self._lock:
            self._stage = stage

    def _take_over(self, before: SessionState, order: LoadOrder, layout: ModelLayout, report: Reporter) -> bool:
        """Makes a stage as good as new that is loaded already; False: there is none like that."""
        stage = self._stage
        if stage is None or not self._loader.is_same(stage, order.spec, layout):
            return False
        try:
            stage.renew(after_failure=before.error is not None)
        except NativeError as error:
            _LOG.warning("a stage that failed could not be made as good as new, so it is loaded anew: %s", error)
            return False
        n_bytes = stage.memory.weights_bytes
        report.follow(lambda: FetchProgress(n_bytes, by_source=((Source(Origin.WARM), n_bytes),)))
        report(1.0)
        report.follow(None)
        return True

    def _try_stages(
        self,
        specs: Sequence[StageSpec],
        layouts: Sequence[ModelLayout],
        look: Callable[[Stage, Report], _Seen],
        report: Report,
    ) -> tuple[_Seen, ...]:
        """On the loading thread."""
        seen: list[_Seen] = []
        try:
            self._drop_stage()
            for spec, layout in zip(specs, layouts, strict=True):
                with contextlib.closing(self._loader.load_alone(spec, layout, report)) as stage:
                    seen.append(look(stage, report))
        finally:
            with self._lock:
                self._state = IDLE
        return tuple(seen)

    def _as_served(self) -> SessionState:
        """The state as others see it, under the lock: a coordinator that is gone has nobody wait for the step that was
        begun for it, which on a slow device takes seconds."""
        is_left = self._state.is_serving and self._feed is not None and self._feed.is_over
        return session.leave(self._state) if is_left else self._state

    def _held(self) -> MemoryUse:
        """By the stage that is loaded."""
        with self._lock:
            return MemoryUse(0, 0, 0, 0) if self._stage is None else self._stage.memory

    def _unload(self, *, may_keep: bool) -> None:
        """While UNLOADING: leaves it WARM or IDLE."""
        session_id = self._state.session_id
        self._end_streams(NoSuchSessionError(f"session {session_id} was unloaded from this worker"))
        stage = self._stage
        if may_keep and self._keep_loaded_s and stage is not None:
            stage.rest()
            with self._lock:
                self._state = warm = session.keep(self._state)
            self._countdown.start(self._keep_loaded_s, lambda: self._unload_if(lambda: self._state is warm))
            return
        self._drop_stage()
        with self._lock:
            self._state = IDLE

    def _unload_if(self, is_meant: Callable[[], bool], *, may_keep: bool = False) -> None:
        """On a countdown's thread. `is_meant` is asked under the lock."""
        with self._lock:
            if not is_meant():
                return
            self._state = session.begin_unload(self._state)
        self._unload(may_keep=may_keep)

    def _drop_stage(self) -> None:
        with self._lock:
            stage, self._stage = self._stage, None
        if stage is not None:
            stage.close()

    def _end_streams(self, error: Exception) -> None:
        """Ends Feed and Collect and waits until neither touches the stage."""
        with self._lock:
            feed, results = self._feed, self._results
            self._results = Results()
        if feed is not None:
            feed.end(error)
            feed.wait_closed()
        results.end(error)

    def _current(self) -> tuple[LoadOrder, Stage, Results]:
        order, stage = self._state.order, self._stage
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
            with self._lock:
                if self._state.order is order and self._state.feed is StreamPhase.OPEN:
                    self._state = session.end_feed(self._state, n_frames=0)
            raise
        return hop

    def _make_feed(self, order: LoadOrder, stage: Stage, outlet: Hop | Results) -> Feed:
        def make_engine(inbox: Handover[Step]) -> Engine:
            return Engine(
                worker=self._worker,
                context=stage.context,
                samplers=stage.samplers,
                inbox=inbox,
                outlet=outlet,
                whereabouts=self._loader.whereabouts(stage.spec),
            )

        return Feed(
            limits=stage.limits(order, self._message_limit_bytes // 2),
            make_engine=make_engine,
            outlet=outlet,
            on_end=lambda feed, error: self._feed_ended(feed, order, error),
        )

    def _feed_ended(self, feed: Feed, order: LoadOrder, error: Exception | None) -> None:
        with self._lock:
            self._feed = None
            if self._state.order is not order or self._state.phase is not Phase.READY:
                return

            def is_over() -> bool:
                return self._state.order is order and self._state.is_over

            self._countdown.start(_COMES_BACK_S, lambda: self._unload_if(is_over, may_keep=True))
            self._n_frames = feed.n_finished
            no_fault = error is None or isinstance(error, StreamLostError | LeavingError)
            if no_fault or (isinstance(error, NeighbourError) and feed.n_started == 0):
                self._state = session.end_feed(self._state, n_frames=feed.n_started)
            elif error is not None:
                self._state = session.fail(self._state, detail_of(error, self.culprit))
            self._results = Results()

    def _check_message_size(self, spec: StageSpec, layout: ModelLayout) -> None:
        """A batch whose hidden states could not pass this worker's server is refused before the first frame is."""
        state_bytes = 4 * spec.params.n_batch * layout.n_embd
        if state_bytes > self._message_limit_bytes // 2:
            raise BadRequestError(
                f"a batch of {spec.params.n_batch} tokens with {layout.n_embd} floats each is too large for one frame;"
                " ask for a smaller n_batch"
            )
