# SPDX-License-Identifier: MIT
"""Opening a mesh, step by step: resolve the model, find workers, connect to them, plan,
confirm, load, connect the line, start the session. What was opened is closed in the opposite order, also when a step
fails or is cancelled. Used by `mesh`, on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.admission import Admission
from coordinator.confirming import ModelOrder, PlanOrder, confirmed_plans
from coordinator.control import WorkerClient
from coordinator.discovery import Discovery, discover
from coordinator.draft_opening import check_can_draft, open_draft_model, start_drafter
from coordinator.errors import (
    CancelledError,
    CaravanError,
    InvalidRequestError,
    ModelError,
    ModelNotFoundError,
    NoWorkersError,
    PlanError,
    UnsupportedModelError,
    WorkerBusyError,
)
from coordinator.events import LoadEvent, LoadPhase, OnProgress
from coordinator.line import Line, LineSpec
from coordinator.loading import LoadedLine, load_lines, unload_stages
from coordinator.local_workers import LocalWorkers
from coordinator.options import N_DRAFTS, NO_DRAFT, MeshOptions
from coordinator.pace import Pace
from coordinator.plan import Plan
from coordinator.scheduler import Scheduler
from coordinator.sequence import Limits
from coordinator.session import Session
from coordinator.statuses import Callee
from coordinator.weights.delivery import Delivery
from coordinator.weights.errand import FetchStep
from coordinator.weights.offering import offer_all
from coordinator.weights.progress import Transfer
from coordinator.weights.source import WeightSource
from coordinator.weights.sources import open_source
from coordinator.wishes import Distribution
from coordinator.workers import LeftOutWorker
from native import (
    ChatTemplateError,
    ModelFileError,
    ModelFileNotFoundError,
    NativeError,
    Vocabulary,
    check_splittable,
)
from native import UnsupportedModelError as NativeUnsupportedModelError

_FIRST_EPOCH = 1


@dataclass(frozen=True, slots=True)
class OpenLine:
    """A line that serves, and the plan it was loaded by."""

    plan: Plan
    session: Session


class OpenMesh:
    """All that an open mesh consists of, and how to close it."""

    def __init__(
        self,
        prepared: _Prepared,
        lines: tuple[OpenLine, ...],
        resources: contextlib.AsyncExitStack,
    ) -> None:
        order = prepared.order.model
        self.model_name = order.name
        self.model_path = order.layout.path
        self.params = order.params
        self.lines = lines
        self.left_out = tuple(prepared.order.left_out)
        self.vocabulary = prepared.vocabulary
        self.admission = prepared.admission
        self._resources = resources
        self._closing: asyncio.Task[None] | None = None

    @property
    def error(self) -> CaravanError | None:
        """Why it serves no more: of the first line, when none does."""
        errors = [line.session.error for line in self.lines]
        return errors[0] if all(errors) else None

    @property
    def least_loaded(self) -> Session:
        """Of the lines that still serve, if any does."""
        return min(
            (line.session for line in self.lines),
            key=lambda session: (session.error is not None, session.n_running + session.n_waiting),
        )

    async def close(self) -> None:
        """Closes everything, once; whoever else calls waits for it."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._resources.aclose())
        await asyncio.shield(self._closing)


async def open_mesh(options: MeshOptions, on_progress: OnProgress) -> OpenMesh:
    """Opens a mesh.

    Args:
        on_progress: Called with each step; what it raises, or False, calls everything off.

    Raises:
        CaravanError: What went wrong; nothing is left open.
    """
    async with contextlib.AsyncExitStack() as resources:
        with native_errors():
            return await _open(options, _obeyed(on_progress), resources)


async def plan_mesh(options: MeshOptions, on_progress: OnProgress) -> tuple[Plan, ...]:
    """The plan of each line that opening a mesh would load, confirmed by the workers; nothing is loaded.

    Raises:
        CaravanError: As `open_mesh`.
    """
    async with contextlib.AsyncExitStack() as resources:
        with native_errors():
            on_progress = _obeyed(on_progress)
            prepared = await _prepare(options, on_progress, resources)
            return tuple(await confirmed_plans(prepared.order, on_progress))


def _obeyed(on_progress: OnProgress) -> OnProgress:
    """The same, where False calls everything off."""

    def tell(event: LoadEvent) -> None:
        if on_progress(event) is False:
            raise CancelledError("opening the mesh was called off by on_progress, which gave False")

    return tell


async def read_source(options: MeshOptions, on_progress: OnProgress) -> WeightSource:
    """Where the model is, its headers read; to be closed.

    Raises:
        CaravanError: It is not there, or cannot be reached.
        NativeError: It is no model that a line can run; see `native_errors`.
    """

    def tell(step: FetchStep) -> None:
        fraction = step.done_bytes / step.total_bytes if step.total_bytes else 0.0
        transfer = Transfer(step.total_bytes or 0, step.done_bytes)
        on_progress(LoadEvent(LoadPhase.FETCHING, step.message, fraction=fraction, transfer=transfer))

    source = await open_source(options.model, tell, options.max_bandwidth)
    try:
        check_splittable(source.layout)
    except BaseException:
        source.close()
        raise
    return source


def order_of(source: WeightSource, options: MeshOptions) -> ModelOrder:
    """The model, and the parameters that the options ask for.

    Raises:
        PlanError: The parameters cannot be.
    """
    params = options.context_params(source.layout.n_ctx_train)
    return ModelOrder(source.name, source.layout, params, source.told_path)


@contextlib.contextmanager
def native_errors() -> Iterator[None]:
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


@dataclass(frozen=True, slots=True)
class _Prepared:
    """All that is known before anything is planned."""

    order: PlanOrder
    vocabulary: Vocabulary
    admission: Admission


async def _open(options: MeshOptions, on_progress: OnProgress, resources: contextlib.AsyncExitStack) -> OpenMesh:
    # Before workers of this machine tell how much memory they have.
    draft_model = await open_draft_model(options, on_progress, resources)
    prepared = await _prepare(options, on_progress, resources)
    if draft_model is not None:
        await check_can_draft(draft_model, prepared.vocabulary, prepared.order.model.name)
    loaded = await load_lines(prepared.order, on_progress, epoch=_FIRST_EPOCH)
    for line in loaded:
        resources.push_async_callback(unload_stages, line.clients, line.session_id)
    opened = []
    for line in loaded:
        session = await _start_session(options, prepared, line)
        resources.push_async_callback(session.close)
        if draft_model is not None:
            params, n_vocab = prepared.order.model.params, prepared.vocabulary.n_tokens
            await start_drafter(draft_model, params, n_vocab, session, on_progress, resources)
        opened.append(OpenLine(line.plan, session))
    resources.callback(prepared.admission.close)
    on_progress(LoadEvent(LoadPhase.READY, "\n".join(line.plan.explain() for line in opened)))
    return OpenMesh(prepared, tuple(opened), resources.pop_all())


async def _prepare(options: MeshOptions, on_progress: OnProgress, resources: contextlib.AsyncExitStack) -> _Prepared:
    source = await read_source(options, on_progress)
    resources.callback(source.close)
    order = order_of(source, options)
    vocabulary, admission = await _read_vocabulary(order, resources)
    found = await _find_workers(options, on_progress)
    wishes = options.wishes
    if not found.found:
        found = await _start_workers(options, found.left_out, on_progress, resources)
        if wishes.distribution is Distribution.AUTO:
            # So many were asked for.
            wishes = replace(wishes, distribution=Distribution.ON)
    clients = _connect(found, resources)
    found = await _offer(options, source, found, clients, on_progress)
    on_progress(LoadEvent(LoadPhase.PLANNING, f"planning {order.name} over {_count(len(found.found), 'worker')}"))
    delivery = Delivery(source, options.max_bandwidth)
    plan_order = PlanOrder(order, found.found, clients, wishes, options.predicted, delivery, found.left_out)
    return _Prepared(plan_order, vocabulary, admission)


async def _read_vocabulary(order: ModelOrder, resources: contextlib.AsyncExitStack) -> tuple[Vocabulary, Admission]:
    vocabulary = await asyncio.to_thread(Vocabulary.load, order.layout.path)
    if not vocabulary.has_text:
        raise UnsupportedModelError(f"{order.name} has no vocabulary, so it can neither read nor write text")
    admission = Admission(vocabulary, order.params.n_ctx_seq)
    resources.callback(admission.free)
    return vocabulary, admission


async def _offer(
    options: MeshOptions,
    source: WeightSource,
    found: Discovery,
    clients: Mapping[str, WorkerClient],
    on_progress: OnProgress,
) -> Discovery:
    """The workers that know the model now; those that would not be offered it are left out."""
    offered = await offer_all(source, found.found, clients)
    _tell_left_out(offered.left_out, options, on_progress)
    left_out = (*found.left_out, *offered.left_out)
    if not offered.workers:
        raise _no_workers(left_out)
    return Discovery(offered.workers, left_out)


async def _find_workers(options: MeshOptions, on_progress: OnProgress) -> Discovery:
    """The workers that can take part, and those that cannot."""
    if options.discover:
        on_progress(LoadEvent(LoadPhase.DISCOVERING, "looking for workers on the network"))
    ranges = options.layer_ranges
    wanted = None if ranges is None or options.only or options.exclude else len(ranges)
    found = await discover(options.workers, mdns=options.discover, timeout_s=options.discovery_timeout_s, wanted=wanted)
    found = _without_serving(_only_wanted(found, options))
    _tell_left_out(found.left_out, options, on_progress)
    return found


def _tell_left_out(left_out: Sequence[LeftOutWorker], options: MeshOptions, on_progress: OnProgress) -> None:
    """Who was asked for by address may not be left out: then the reason is raised."""
    for worker in left_out:
        if worker.address in options.workers:
            raise worker.error
        on_progress(LoadEvent(LoadPhase.LEFT_OUT, f"left out: {worker.name}: {worker.reason}", worker=worker.name))


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
    kept = tuple(worker for worker in found.found if options.wants(worker.name))
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


async def _start_session(options: MeshOptions, prepared: _Prepared, loaded: LoadedLine) -> Session:
    model, vocabulary, clients = prepared.order.model, prepared.vocabulary, loaded.clients
    params, stages = model.params, loaded.plan.stages
    limits = Limits(
        n_slots=params.n_seq_max,
        n_batch=params.n_batch,
        n_ctx=params.n_ctx_seq,
        n_stages=len(stages),
        n_waiting=options.queue,
        n_ubatch=params.n_ubatch,
        can_forget_part=vocabulary.can_forget_part,
        n_drafts=N_DRAFTS if options.draft != NO_DRAFT and vocabulary.can_forget_part else 0,
        has_draft_model=options.draft_model is not None,
    )
    ends = await asyncio.to_thread(_end_tokens, vocabulary)
    spec = LineSpec(
        loaded.session_id,
        _FIRST_EPOCH,
        stages=tuple(Callee(stage.worker, stage.address, stage.layers) for stage in stages),
        n_batch=params.n_batch,
        n_embd=model.layout.n_embd,
    )
    line = await Line.open(spec, clients)
    prediction = loaded.plan.prediction
    pace = Pace(len(stages), None if prediction is None else prediction.frame_s)
    session = Session(line, Scheduler(limits, ends, pace), vocabulary.piece, lambda: line.diagnose(clients))
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
