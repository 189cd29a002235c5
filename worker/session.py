# SPDX-License-Identifier: MIT
"""What a worker holds, as a value: the session and epoch of its stage, its phase, and who has its streams.

Pure: each transition takes a state and gives the next one, or raises what the caller is told. The holder
(worker/holder.py) and the streams (worker/streams.py) do what the transitions stand for, under the lock of what is
held.

    IDLE ── begin_load ─► LOADING ── finish_load ─► READY ── fail ─► FAILED
                            ▲                         │                │
                            └─────── begin_load ──────┴────────────────┤
    IDLE ◄─ (it is done) ── UNLOADING ◄──────── begin_unload ──────────┘
    IDLE ── begin_benchmark ─► BENCHMARKING ── (it is done) ─► IDLE
    UNLOADING ── keep ─► WARM ── begin_load, begin_benchmark, begin_unload ─► as from IDLE or READY

A load that fails ends in IDLE, too. WARM: the session is over, and its stage is kept for one that would load the same.
"""

from dataclasses import dataclass, field, replace
from enum import Enum

from native import ContextParams, LayerRange
from protos.caravan.v1 import error_pb2
from worker.errors import InUseError, LoadUnderWayError, NoSuchSessionError, WrongEpochError
from worker.weights.sources import WeightSources


class Phase(Enum):
    """What a worker is doing with its one stage."""

    IDLE = "idle"
    LOADING = "loading"
    UNLOADING = "unloading"
    READY = "ready"
    FAILED = "failed"
    WARM = "warm"
    BENCHMARKING = "benchmarking"


class StreamPhase(Enum):
    """One of an epoch's two streams. SPENT: it carried frames and is over, no other may follow."""

    UNOPENED = "unopened"
    OPEN = "open"
    SPENT = "spent"


@dataclass(frozen=True, slots=True)
class StageSpec:
    """Which layers of which model, and the context around them: equal specs may share what is loaded, if it comes from
    the same files.

    Of the first `n_cpu_moe` of the layers that have experts, these lie in system memory. `is_draft`: it is all of a
    model that drafts for another one.
    """

    # Where the coordinator has it.
    path: str = field(compare=False)
    identity: str
    layers: LayerRange
    params: ContextParams
    n_cpu_moe: int = 0
    is_draft: bool = False


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The next worker of the line: its name, for messages, and its gRPC target."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """What a Load asks for; `next_worker` is None on the last stage, `first_worker` on all others, and where tokens go
    back by the coordinator.

    `sources` are for weights that are not here, and say nothing of what is loaded; None: all are here, and right.
    """

    session_id: str
    epoch: int
    spec: StageSpec
    next_worker: Neighbour | None
    sources: WeightSources | None = field(default=None, compare=False)
    first_worker: Neighbour | None = None


@dataclass(frozen=True, slots=True)
class SessionState:
    """The worker's one session; `order` is None while there is none, and the last one's while WARM. `error` is set
    while FAILED, and stays until the next load.
    """

    phase: Phase = Phase.IDLE
    order: LoadOrder | None = None
    feed: StreamPhase = StreamPhase.UNOPENED
    collect: StreamPhase = StreamPhase.UNOPENED
    error: error_pb2.ErrorDetail | None = None

    @property
    def session_id(self) -> str:
        """Empty while there is none."""
        return "" if self.order is None else self.order.session_id

    @property
    def epoch(self) -> int:
        """0 while there is none."""
        return 0 if self.order is None else self.order.epoch

    @property
    def is_serving(self) -> bool:
        """Whether a coordinator is using it now."""
        return self.phase is Phase.READY and self.feed is StreamPhase.OPEN

    @property
    def is_over(self) -> bool:
        """Whether nobody uses it any more, unless its coordinator comes back: it is loaded and has no Feed."""
        return self.phase in (Phase.READY, Phase.FAILED) and not self.is_serving


IDLE = SessionState()


def is_loaded(state: SessionState, order: LoadOrder) -> bool:
    """Whether the very same order was carried out before, so that a repeated Load has nothing to do."""
    return state.phase is Phase.READY and state.order == order


def begin_load(state: SessionState, order: LoadOrder) -> SessionState:
    """A load starts; whatever was there is over.

    Raises:
        LoadUnderWayError: another one, or a benchmark, runs.
        InUseError: another session is being served.
        WrongEpochError: the epoch of this session is spent or in the past.
    """
    _check_at_leisure(state)
    if state.session_id != order.session_id and state.is_serving:
        raise InUseError(
            f"this worker serves session {state.session_id} of another coordinator; end that one, or use other workers"
        )
    if state.session_id == order.session_id and order.epoch <= state.epoch:
        raise WrongEpochError(
            f"session {order.session_id} is at epoch {state.epoch} here already; load a later one than that"
        )
    return SessionState(phase=Phase.LOADING, order=order)


def finish_load(state: SessionState) -> SessionState:
    """The load that was under way is done."""
    return replace(state, phase=Phase.READY)


def begin_unload(state: SessionState) -> SessionState:
    """What is loaded goes; nobody may open a stream or load meanwhile."""
    return replace(state, phase=Phase.UNLOADING)


def keep(state: SessionState) -> SessionState:
    """The session that is being unloaded is over, and its stage stays."""
    return SessionState(phase=Phase.WARM, order=state.order, error=state.error)


def begin_benchmark(state: SessionState) -> SessionState:
    """A benchmark starts, which has the device to itself.

    Raises:
        LoadUnderWayError: a load, or another benchmark, runs.
        InUseError: a stage is loaded.
    """
    _check_at_leisure(state)
    if state.phase not in (Phase.IDLE, Phase.WARM):
        raise InUseError(
            f"this worker holds a stage of session {state.session_id}, and a benchmark needs the device to itself;"
            " unload that first"
        )
    return SessionState(phase=Phase.BENCHMARKING)


def open_feed(state: SessionState, session_id: str, epoch: int) -> SessionState:
    """A Feed opens.

    Raises:
        NoSuchSessionError, WrongEpochError: as the contract has it.
    """
    _check_ready(state, session_id, epoch)
    _check_unopened(state.feed, "Feed", epoch)
    return replace(state, feed=StreamPhase.OPEN)


def open_collect(state: SessionState, session_id: str, epoch: int) -> SessionState:
    """A Collect opens.

    Raises:
        NoSuchSessionError, WrongEpochError: as the contract has it.
    """
    order = _check_ready(state, session_id, epoch)
    if order.next_worker is not None:
        raise WrongEpochError("results come from the last stage of a line, and this stage is not the last")
    _check_unopened(state.collect, "Collect", epoch)
    return replace(state, collect=StreamPhase.OPEN)


def check_return(state: SessionState, session_id: str, epoch: int) -> None:
    """Whether a Return may open: the stage is the first of several, and its Feed is open.

    Raises:
        NoSuchSessionError, WrongEpochError: as the contract has it.
    """
    order = _check_ready(state, session_id, epoch)
    if order.next_worker is None or order.spec.layers.start > 0:
        raise WrongEpochError("tokens are returned to the first of several stages, and this stage is another")
    if state.feed is not StreamPhase.OPEN:
        raise WrongEpochError(f"no Feed of epoch {epoch} is open that tokens could be returned for")


def end_feed(state: SessionState, *, n_frames: int) -> SessionState:
    """The Feed is over after `n_frames` frames were started; without any, the epoch is as good as new."""
    after = StreamPhase.UNOPENED if n_frames == 0 else StreamPhase.SPENT
    return replace(state, feed=after, collect=after)


def leave(state: SessionState) -> SessionState:
    """Whoever fed the Feed is gone, and a step of it is still computed: nobody is being served."""
    return replace(state, feed=StreamPhase.SPENT)


def end_collect(state: SessionState) -> SessionState:
    """The Collect is over; before a Feed opened another one may take its place."""
    waits = state.feed is StreamPhase.UNOPENED
    return replace(state, collect=StreamPhase.UNOPENED if waits else StreamPhase.SPENT)


def fail(state: SessionState, error: error_pb2.ErrorDetail) -> SessionState:
    """The epoch failed; the first reason stays."""
    if state.phase is not Phase.READY:
        return state
    return replace(state, phase=Phase.FAILED, feed=StreamPhase.SPENT, collect=StreamPhase.SPENT, error=error)


def _check_at_leisure(state: SessionState) -> None:
    if state.phase is Phase.BENCHMARKING:
        raise LoadUnderWayError("this worker runs a benchmark; try again when that is done")
    if state.phase in (Phase.LOADING, Phase.UNLOADING):
        raise LoadUnderWayError(
            f"this worker is {state.phase.value} session {state.session_id}; try again when that is done"
        )


def _check_ready(state: SessionState, session_id: str, epoch: int) -> LoadOrder:
    order = state.order
    is_loaded = state.phase in (Phase.READY, Phase.FAILED)
    if order is None or not is_loaded or order.session_id != session_id:
        raise NoSuchSessionError(f"session {session_id} is not loaded on this worker; load it first")
    if order.epoch != epoch:
        raise WrongEpochError(f"session {session_id} is at epoch {order.epoch} on this worker, not {epoch}")
    if state.phase is Phase.FAILED:
        raise WrongEpochError(f"epoch {epoch} failed on this worker; load a later epoch")
    return order


def _check_unopened(stream: StreamPhase, what: str, epoch: int) -> None:
    if stream is StreamPhase.OPEN:
        raise WrongEpochError(f"a {what} of epoch {epoch} is open already; close it first")
    if stream is StreamPhase.SPENT:
        raise WrongEpochError(
            f"epoch {epoch} has processed frames, so its KV cache cannot start over; load a later epoch"
        )
