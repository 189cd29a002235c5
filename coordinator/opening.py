# SPDX-License-Identifier: MIT
"""Opening a mesh, step by step: resolve the model, find workers, connect to them, plan,
confirm, load, connect the line, start the session. What was opened is closed in the opposite order, also when a step
fails or is cancelled. Used by `mesh`, on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from coordinator.admission import Admission
from coordinator.control import WorkerClient
from coordinator.discovery import Discovery, discover
from coordinator.errors import (
    CaravanError,
    InvalidRequestError,
    ModelError,
    ModelNotFoundError,
    NoWorkersError,
    PlanError,
    UnsupportedModelError,
    WorkerBusyError,
)
from coordinator.line import Line, LineSpec
from coordinator.loading import (
    LoadEvent,
    LoadPhase,
    ModelOrder,
    OnProgress,
    PlanOrder,
    confirmed_plan,
    load_line,
    unload_stages,
)
from coordinator.local_workers import LocalWorkers
from coordinator.models import ModelFile, resolve_model
from coordinator.plan import Plan
from coordinator.planner import Distribution, Wishes
from coordinator.scheduler import Limits, Scheduler
from coordinator.search import Objective
from coordinator.session import Session
from coordinator.statuses import Callee
from coordinator.workers import LeftOutWorker
from native import (
    ChatTemplateError,
    ContextParams,
    FlashAttention,
    LayerRange,
    ModelFileError,
    ModelFileNotFoundError,
    NativeError,
    Vocabulary,
    check_splittable,
    read_layout,
)
from native import UnsupportedModelError as NativeUnsupportedModelError

_DEFAULT_CONTEXT = 4096
"""Tokens per sequence unless asked otherwise: models trained for 128 k would claim gigabytes of cache."""

_DEFAULT_UBATCH = 512
"""llama.cpp's own."""

_MAX_CONTEXT = 1 << 24
"""Tokens of all sequences together that workers accept; llama.cpp counts them in 32 bits."""

_FIRST_EPOCH = 1


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """How to open a mesh.

    Attributes:
        model: Path of a GGUF file, or "demo".
        workers: Addresses, ``host:port``, of workers to use; one that cannot take part is an error.
        discover: Whether to look for others by mDNS; one that cannot take part is left out.
        discovery_timeout_s: How long to look, in seconds.
        local_workers: If there are no workers, start so many here, for this mesh alone; 0: never.
        only: Names of the workers that may take part; empty: all.
        exclude: Names of workers that may not.
        distribution: Over as many devices as it pays, over all of them, or over one.
        objective: What the plan makes fast: one stream (latency), or the slowest stage (throughput).
        max_stages: Of the line, at most; None: any number.
        layer_ranges: Half-open layer ranges for the workers in order (those given by address first, then the others by
            name) instead of the planner's choice.
        pinned: Half-open layer ranges of some workers, by name; the planner lays out the rest.
        context: Tokens per sequence; None: what the model was trained for, at most 4096.
        parallel: Sequences at a time.
        batch: Tokens per frame, at most; long prompts are cut into so many.
        ubatch: Tokens that llama.cpp computes at once, at most; None: llama.cpp's 512.
        kv_type_k: ggml type of cached keys.
        kv_type_v: ggml type of cached values.
        flash_attention: llama.cpp's switch. Off, as llama-cpp-python has it, so that the text is the same to the
            letter: it computes otherwise in the third digit. On, long contexts take less memory.
        queue: Requests that may wait for a slot; beyond that OverloadedError.
        predicted: Whether speed is measured, and predicted, also where nothing depends on it: with one worker, or with
            layer ranges by hand.
    """

    model: str | Path
    workers: Sequence[str] = ()
    discover: bool = True
    discovery_timeout_s: float = 2.0
    local_workers: int = 0
    only: Collection[str] = ()
    exclude: Collection[str] = ()
    distribution: Distribution = Distribution.AUTO
    objective: Objective = Objective.LATENCY
    max_stages: int | None = None
    layer_ranges: Sequence[LayerRange] | None = None
    pinned: Mapping[str, LayerRange] = field(default_factory=dict)
    context: int | None = None
    parallel: int = 4
    batch: int = 512
    ubatch: int | None = None
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    flash_attention: FlashAttention = FlashAttention.OFF
    queue: int = 64
    predicted: bool = False

    @property
    def wishes(self) -> Wishes:
        """What is asked of the plan.

        Raises:
            PlanError: It contradicts itself.
        """
        if self.layer_ranges is not None and self.pinned:
            raise PlanError("layer ranges are given either in the order of the workers, or by their names")
        if self.max_stages is not None and self.max_stages < 1:
            raise PlanError("a line has at least one stage")
        ranges = None if self.layer_ranges is None else tuple(self.layer_ranges)
        return Wishes(self.distribution, self.objective, ranges, dict(self.pinned), self.max_stages)

    def context_params(self, n_ctx_train: int) -> ContextParams:
        """The parameters every stage's context gets.

        Raises:
            PlanError: They cannot be.
        """
        n_ctx = self.context if self.context is not None else min(n_ctx_train, _DEFAULT_CONTEXT)
        n_batch = min(self.batch, n_ctx)
        if n_ctx * self.parallel > _MAX_CONTEXT:
            raise PlanError(
                f"{self.parallel} sequences of {n_ctx} tokens are too much; {_MAX_CONTEXT} together at most"
            )
        if n_batch < self.parallel:
            raise PlanError(
                f"{self.parallel} sequences in parallel need a context and a batch of at least so many tokens, "
                f"not {n_ctx} and {self.batch}"
            )
        if self.queue < 0 or self.local_workers < 0:
            raise PlanError("the queue and the number of local workers cannot be negative")
        try:
            return ContextParams(
                n_ctx_seq=n_ctx,
                n_seq_max=self.parallel,
                n_batch=n_batch,
                n_ubatch=min(_DEFAULT_UBATCH if self.ubatch is None else self.ubatch, n_batch),
                kv_type_k=self.kv_type_k,
                kv_type_v=self.kv_type_v,
                flash_attention=self.flash_attention,
            )
        except ValueError as error:
            raise PlanError(str(error)) from error


class OpenMesh:
    """All that an open mesh consists of, and how to close it."""

    def __init__(
        self,
        order: ModelOrder,
        plan: Plan,
        left_out: tuple[LeftOutWorker, ...],
        vocabulary: Vocabulary,
        admission: Admission,
        session: Session,
        resources: contextlib.AsyncExitStack,
    ) -> None:
        self.model_name = order.name
        self.model_path = order.layout.path
        self.params = order.params
        self.plan = plan
        self.left_out = left_out
        self.vocabulary = vocabulary
        self.session = session
        self.admission = admission
        self._resources = resources
        self._closing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Closes everything, once; whoever else calls waits for it."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._resources.aclose())
        await asyncio.shield(self._closing)


async def open_mesh(options: MeshOptions, on_progress: OnProgress) -> OpenMesh:
    """Opens a mesh.

    Raises:
        CaravanError: What went wrong; nothing is left open.
    """
    async with contextlib.AsyncExitStack() as resources:
        with _native_errors():
            return await _open(options, on_progress, resources)


async def plan_mesh(options: MeshOptions, on_progress: OnProgress) -> Plan:
    """The plan that opening a mesh would load, confirmed by the workers; nothing is loaded.

    Raises:
        CaravanError: As `open_mesh`.
    """
    async with contextlib.AsyncExitStack() as resources:
        with _native_errors():
            return await confirmed_plan((await _prepare(options, on_progress, resources)).order, on_progress)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """All that is known before anything is planned."""

    order: PlanOrder
    vocabulary: Vocabulary
    admission: Admission
    left_out: tuple[LeftOutWorker, ...]


async def _open(options: MeshOptions, on_progress: OnProgress, resources: contextlib.AsyncExitStack) -> OpenMesh:
    prepared = await _prepare(options, on_progress, resources)
    order, session_id = prepared.order, secrets.token_hex(8)
    plan = await load_line(order, on_progress, session_id=session_id, epoch=_FIRST_EPOCH)
    clients = [order.clients[stage.worker] for stage in plan.stages]
    resources.push_async_callback(unload_stages, clients, session_id)
    session = await _start_session(options.queue, prepared, plan, clients, session_id)
    resources.push_async_callback(session.close)
    resources.callback(prepared.admission.close)
    on_progress(LoadEvent(LoadPhase.READY, plan.explain()))
    return OpenMesh(
        order.model, plan, prepared.left_out, prepared.vocabulary, prepared.admission, session, resources.pop_all()
    )


async def _prepare(options: MeshOptions, on_progress: OnProgress, resources: contextlib.AsyncExitStack) -> _Prepared:
    order, vocabulary, admission = await _read_model(options, resources)
    found = await _find_workers(options, on_progress)
    wishes = options.wishes
    if not found.found:
        found = await _start_workers(options, found.left_out, on_progress, resources)
        if wishes.distribution is Distribution.AUTO:
            # So many were asked for.
            wishes = replace(wishes, distribution=Distribution.ON)
    clients = _connect(found, resources)
    on_progress(LoadEvent(LoadPhase.PLANNING, f"planning {order.name} over {_count(len(found.found), 'worker')}"))
    plan_order = PlanOrder(order, found.found, clients, wishes, options.predicted, found.left_out)
    return _Prepared(plan_order, vocabulary, admission, found.left_out)


async def _read_model(
    options: MeshOptions, resources: contextlib.AsyncExitStack
) -> tuple[ModelOrder, Vocabulary, Admission]:
    file: ModelFile = resolve_model(options.model)
    layout = await asyncio.to_thread(read_layout, file.path)
    check_splittable(layout)
    order = ModelOrder(file.name, layout, options.context_params(layout.n_ctx_train))
    vocabulary = await asyncio.to_thread(Vocabulary.load, file.path)
    admission = Admission(vocabulary, order.params.n_ctx_seq)
    resources.callback(admission.free)
    return order, vocabulary, admission


async def _find_workers(options: MeshOptions, on_progress: OnProgress) -> Discovery:
    """The workers that can take part, and those that cannot."""
    if options.discover:
        on_progress(LoadEvent(LoadPhase.DISCOVERING, "looking for workers on the network"))
    ranges = options.layer_ranges
    wanted = None if ranges is None or options.only or options.exclude else len(ranges)
    found = await discover(options.workers, mdns=options.discover, timeout_s=options.discovery_timeout_s, wanted=wanted)
    found = _without_serving(_only_wanted(found, options))
    for worker in found.left_out:
        if worker.address in options.workers:
            raise worker.error
        on_progress(LoadEvent(LoadPhase.LEFT_OUT, f"left out: {worker.name}: {worker.reason}", worker=worker.name))
    return found


async def _start_workers(
    options: MeshOptions,
    left_out: tuple[LeftOutWorker, ...],
    on_progress: OnProgress,
    resources: contextlib.AsyncExitStack,
) -> Discovery:
    """Workers of this mesh's own, on this machine, if that is wanted."""
    if not options.local_workers:
        raise _no_workers(left_out)
    on_progress(
        LoadEvent(
            LoadPhase.STARTING,
            f"no worker was found: starting {_count(options.local_workers, 'worker')} on this machine",
        )
    )
    local = LocalWorkers()
    resources.push_async_callback(local.close)
    started = await discover(await local.start(options.local_workers), mdns=False)
    if started.left_out:
        raise started.left_out[0].error
    return Discovery(started.found, left_out)


def _only_wanted(found: Discovery, options: MeshOptions) -> Discovery:
    """Without the workers that the user does not want."""
    names = {worker.name for worker in found.found}
    unknown = sorted({*options.only, *options.exclude} - names - {worker.name for worker in found.left_out})
    if unknown:
        there = ", ".join(sorted(names)) or "none"
        raise PlanError(f"no worker is named {', '.join(unknown)}; found: {there}")
    kept = tuple(
        worker
        for worker in found.found
        if worker.name not in options.exclude and (not options.only or worker.name in options.only)
    )
    if names and not kept:
        raise NoWorkersError(f"of the workers found ({', '.join(sorted(names))}) none may take part")
    return Discovery(kept, found.left_out)


def _without_serving(found: Discovery) -> Discovery:
    """Leaves out the workers that serve another coordinator: loading there would end its answers."""
    serving = tuple(
        LeftOutWorker(
            worker.name,
            worker.address,
            WorkerBusyError(
                f"worker {worker.name} serves another coordinator now: end that one, or start another worker",
                worker=worker.name,
                retry_safe=True,
            ),
        )
        for worker in found.found
        if worker.is_serving
    )
    free = tuple(worker for worker in found.found if not worker.is_serving)
    return Discovery(free, (*found.left_out, *serving))


def _connect(found: Discovery, resources: contextlib.AsyncExitStack) -> Mapping[str, WorkerClient]:
    clients = {}
    for worker in found.found:
        clients[worker.name] = client = WorkerClient(worker.address, worker.name)
        resources.push_async_callback(client.close)
    return clients


async def _start_session(
    queue: int, prepared: _Prepared, plan: Plan, clients: Sequence[WorkerClient], session_id: str
) -> Session:
    model, vocabulary = prepared.order.model, prepared.vocabulary
    params, stages = model.params, plan.stages
    limits = Limits(
        n_slots=params.n_seq_max,
        n_batch=params.n_batch,
        n_ctx=params.n_ctx_seq,
        n_stages=len(stages),
        n_waiting=queue,
    )
    ends = await asyncio.to_thread(_end_tokens, vocabulary)
    spec = LineSpec(
        session_id,
        _FIRST_EPOCH,
        stages=tuple(Callee(stage.worker, stage.address, stage.layers) for stage in stages),
        n_batch=params.n_batch,
        n_embd=model.layout.n_embd,
    )
    line = await Line.open(spec, clients)
    session = Session(line, Scheduler(limits, ends), vocabulary.piece, lambda: line.diagnose(clients))
    session.start()
    return session


def _end_tokens(vocabulary: Vocabulary) -> frozenset[int]:
    """All end-of-generation tokens; asked once, so that the scheduler stays pure."""
    return frozenset(filter(vocabulary.is_end_of_generation, range(vocabulary.n_tokens)))


def _no_workers(left_out: Sequence[LeftOutWorker]) -> NoWorkersError:
    found = "no worker was found on the network"
    if left_out:
        found = "no worker can take part (" + "; ".join(f"{worker.name}: {worker.reason}" for worker in left_out) + ")"
    return NoWorkersError(f"{found}: start one with `caravan worker`, or name one that runs by its HOST:PORT")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


@contextlib.contextmanager
def _native_errors() -> Iterator[None]:
    """Errors of our own llama.cpp, as this room's."""
    try:
        yield
    except ModelFileNotFoundError as error:
        raise ModelNotFoundError(str(error)) from error
    except NativeUnsupportedModelError as error:
        raise UnsupportedModelError(str(error)) from error
    except ModelFileError as error:
        raise ModelError(str(error)) from error
    except ChatTemplateError as error:
        raise InvalidRequestError(str(error)) from error
    except NativeError as error:
        raise CaravanError(str(error)) from error
