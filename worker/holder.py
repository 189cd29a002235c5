# SPDX-License-Identifier: MIT
"""The one session of a worker: loads and drops the stage that is held (worker/held.py), and says how it stands.

The servicers call it on gRPC's threads, at once and in any order; the session's streams are worker/streams.py's. While
the state is LOADING or UNLOADING the stage belongs to that one thread. Stages that are only tried (a benchmark) belong
to the loading thread alone.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from native import Device, LayerRange, MemoryUse, ModelLayout, NativeError, find_device
from protos.caravan.v1 import error_pb2
from protos.channels import Channels
from worker import session
from worker.cards import Place, free_beside, room_for
from worker.countdown import Countdown
from worker.errors import BadRequestError, NoSuchSessionError, WrongEpochError
from worker.held import Held
from worker.loading import Loading, Report, Reporter
from worker.model_files import ModelFiles
from worker.session import IDLE, LoadOrder, Phase, SessionState, StageSpec
from worker.stage import Stage
from worker.stage_loader import StageLoader
from worker.streams import Streams
from worker.weights.progress import FetchProgress
from worker.weights.sources import Origin, Source

_LOG = logging.getLogger(__name__)

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
        held: Held,
        *,
        place: Place,
        files: ModelFiles,
        loader: StageLoader,
        message_limit_bytes: int,
        keep_loaded_s: float,
        channels: Channels,
    ) -> None:
        """Holds nothing.

        Args:
            held: what it is to hold.
            message_limit_bytes: what its server lets through.
            keep_loaded_s: how long a stage stays whose session is over; 0: not at all.
        """
        self._held = held
        self.place = place
        self._files = files
        self._loader = loader
        self._message_limit_bytes = message_limit_bytes
        self._keep_loaded_s = keep_loaded_s
        self.streams = Streams(self._held, message_limit_bytes, channels, self._wait_for_return, loader.whereabouts)
        self._countdown = Countdown()
        self._loading: Loading[object] | None = None

    def device(self) -> Device:
        """The device as this worker may use it, its free memory read now."""
        return self._loader.limits().apply(self.place.device(), self._held.memory().device_bytes)

    def shared_free_bytes(self) -> int:
        """Free on the device for all workers on it together, now."""
        return self._loader.limits().shared(self.place.device())

    def host_free_bytes(self) -> int:
        """What this worker may use now of system memory beside its device, for experts."""
        if not self.place.takes_experts_beside:
            return 0
        return self._loader.limits().host_free(self.place.device(), find_device("CPU"), self._held.memory())

    def find_model(self, spec: StageSpec, *, whole: bool = False) -> ModelLayout:
        """The layout of the file that `spec` means, checked against what is asked of it; `whole`: with its weights.

        Raises:
            CallError, NativeError: as Load.
        """
        layout = self._files.find_whole(spec) if whole else self._files.find(spec)
        if spec.is_draft and spec.layers != LayerRange(0, layout.n_layer):
            raise BadRequestError(f"a model that drafts is loaded as a whole, all {layout.n_layer} layers of it")
        self._check_message_size(spec, layout)
        return layout

    def dry_run(self, spec: StageSpec) -> tuple[MemoryUse, int]:
        """What a stage would take here, and bytes there are for it beside what is loaded, which stays as it is.

        Raises:
            CallError, NativeError: as Load.
        """
        layout = self.find_model(spec)
        held = self._held.memory()
        free_bytes = free_beside(held, self.place.free_bytes())
        use = self._loader.placed(spec, layout, free_bytes).memory
        limit_bytes = self.device().free_bytes + held.device_bytes
        return use, max(0, room_for(use, free_bytes, limit_bytes) - held.device_bytes)

    def load(self, order: LoadOrder) -> Loading[None] | None:
        """Starts loading; None: exactly this is loaded. What was loaded before is over, its streams end.

        Raises:
            CallError, NativeError: refused before anything changed.
        """
        with self._held.lock:
            if session.is_loaded(self._held.state, order):
                return None
            session.begin_load(self.streams.state(), order)
        layout = self.find_model(order.spec, whole=order.sources is None)
        with self._held.lock:
            before, self._held.state = self._held.state, session.begin_load(self.streams.state(), order)
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
        with self._held.lock:
            self._held.state = session.begin_benchmark(self._held.state)
            loading = Loading(lambda report: self._try_stages(specs, layouts, look, report))
            self._loading = loading
            return loading

    def has(self, session_id: str) -> bool:
        """Whether it holds that session, or loads it."""
        with self._held.lock:
            return self._held.state.order is not None and self._held.state.session_id == session_id

    def loaded(self) -> Loaded | None:
        """The stage that is loaded, if one is."""
        with self._held.lock:
            state, stage = self._held.state, self._held.stage
            if stage is None or state.phase not in (Phase.READY, Phase.FAILED, Phase.WARM):
                return None
            if state.phase is Phase.WARM:
                return Loaded("", 0, stage.spec.layers, stage.memory, is_serving=False, is_warm=True)
            is_serving = self.streams.state().is_serving
            return Loaded(state.session_id, state.epoch, stage.spec.layers, stage.memory, is_serving)

    def unload(self, session_id: str, *, may_keep: bool = False) -> bool:
        """Ends the session, or cancels its load; False: it is not here. Blocks for one step at most.

        Args:
            session_id: empty, or that of the last session: a stage that is warm, too.
            may_keep: the stage may stay warm; else it is freed.
        """
        while True:
            with self._held.lock:
                state = self._held.state
                is_meant = state.phase is Phase.WARM and not may_keep and session_id in ("", state.session_id)
                is_here = state.order is not None and state.session_id == session_id
                if not is_meant and (not is_here or state.phase in (Phase.UNLOADING, Phase.WARM)):
                    return False
                loading = self._loading if state.phase is Phase.LOADING else None
                if loading is None:
                    self._held.state = session.begin_unload(state)
                    break
            loading.cancel()
            loading.settle()
        self._unload(may_keep=may_keep)
        return state.phase is not Phase.WARM

    def health(self) -> Health:
        """Cheap; answers also while the engine computes or a load runs."""
        with self._held.lock:
            state = self._held.state
            return Health(
                phase=state.phase,
                is_computing=self.streams.is_computing,
                session_id="" if state.phase is Phase.WARM else state.session_id,
                epoch=0 if state.phase is Phase.WARM else state.epoch,
                n_frames=self.streams.n_frames,
                error=state.error,
            )

    def close(self) -> None:
        """Drops everything; the servicers must be gone."""
        with self._held.lock:
            session_id, loading = self._held.state.session_id, self._loading
        if loading is not None:
            loading.cancel()
            loading.settle()
        self.unload(session_id)
        self._countdown.end()

    def _load(self, before: SessionState, order: LoadOrder, layout: ModelLayout, report: Reporter) -> None:
        """On the loading thread: brings the stage to `order`, or to nothing."""
        try:
            self.streams.end(
                WrongEpochError(f"session {order.session_id} was loaded on this worker, at epoch {order.epoch}")
            )
            self._bring_stage(before, order, layout, report)
        except BaseException:
            self._held.drop_stage()
            with self._held.lock:
                self._held.state = IDLE
            raise
        with self._held.lock:
            self._held.state = session.finish_load(self._held.state)
            self.streams.begin_epoch()

    def _bring_stage(self, before: SessionState, order: LoadOrder, layout: ModelLayout, report: Reporter) -> None:
        """Weights stay where they are when only the session or the epoch is new."""
        if self._take_over(before, order, layout, report):
            return
        self._held.drop_stage()
        stage = self._loader.load(order, layout, report)
        with self._held.lock:
            self._held.stage = stage

    def _take_over(self, before: SessionState, order: LoadOrder, layout: ModelLayout, report: Reporter) -> bool:
        """Makes a stage as good as new that is loaded already; False: there is none like that."""
        stage = self._held.stage
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
            self._held.drop_stage()
            for spec, layout in zip(specs, layouts, strict=True):
                with contextlib.closing(self._loader.load_alone(spec, layout, report)) as stage:
                    seen.append(look(stage, report))
        finally:
            with self._held.lock:
                self._held.state = IDLE
        return tuple(seen)

    def _unload(self, *, may_keep: bool) -> None:
        """While UNLOADING: leaves it WARM or IDLE."""
        session_id = self._held.state.session_id
        self.streams.end(NoSuchSessionError(f"session {session_id} was unloaded from this worker"))
        stage = self._held.stage
        if may_keep and self._keep_loaded_s and stage is not None:
            stage.rest()
            with self._held.lock:
                self._held.state = warm = session.keep(self._held.state)
            self._countdown.start(self._keep_loaded_s, lambda: self._unload_if(lambda: self._held.state is warm))
            return
        self._held.drop_stage()
        with self._held.lock:
            self._held.state = IDLE

    def _wait_for_return(self, is_left: Callable[[], bool]) -> None:
        """A Feed ended: if its coordinator does not come back, its session is over."""
        self._countdown.start(_COMES_BACK_S, lambda: self._unload_if(is_left, may_keep=True))

    def _unload_if(self, is_meant: Callable[[], bool], *, may_keep: bool = False) -> None:
        """On a countdown's thread. `is_meant` is asked under the lock."""
        with self._held.lock:
            if not is_meant():
                return
            self._held.state = session.begin_unload(self._held.state)
        self._unload(may_keep=may_keep)

    def _check_message_size(self, spec: StageSpec, layout: ModelLayout) -> None:
        """A batch whose hidden states could not pass this worker's server is refused before the first frame is."""
        state_bytes = 4 * spec.params.n_batch * layout.n_embd
        if state_bytes > self._message_limit_bytes // 2:
            raise BadRequestError(
                f"a batch of {spec.params.n_batch} tokens with {layout.n_embd} floats each is too large for one frame;"
                " ask for a smaller n_batch"
            )
