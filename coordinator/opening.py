# SPDX-License-Identifier: MIT
"""Opening a mesh, step by step: resolve the model, find workers, connect to them, plan,
confirm, load, connect the line, start the session. What was opened is closed in the opposite order, also when a step
fails or is cancelled. Used by `mesh`, on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    UnsupportedModelError,
)
from coordinator.line import Line, LineSpec
from coordinator.loading import (
    LoadEvent,
    LoadPhase,
    ModelOrder,
    OnProgress,
    confirmed_plan,
    load_stages,
    unload_stages,
)
from coordinator.local_workers import LocalWorkers
from coordinator.models import ModelFile, resolve_model
from coordinator.planner import Plan
from coordinator.scheduler import Limits, Scheduler
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

_FIRST_EPOCH = 1


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """What `AsyncMesh.open` was asked for; its documentation has the meanings."""

    model: str | Path
    workers: tuple[str, ...]
    discover: bool
    discovery_timeout_s: float
    local_workers: int
    layer_ranges: tuple[LayerRange, ...] | None
    context: int | None
    parallel: int
    batch: int
    ubatch: int | None
    kv_type_k: str
    kv_type_v: str
    flash_attention: FlashAttention
    queue: int

    def context_params(self, n_ctx_train: int) -> ContextParams:
        """The parameters every stage's context gets.

        Raises:
            ValueError: They cannot be.
        """
        n_ctx = self.context if self.context is not None else min(n_ctx_train, _DEFAULT_CONTEXT)
        n_batch = min(self.batch, n_ctx)
        return ContextParams(
            n_ctx_seq=n_ctx,
            n_seq_max=self.parallel,
            n_batch=n_batch,
            n_ubatch=min(self.ubatch or _DEFAULT_UBATCH, n_batch),
            kv_type_k=self.kv_type_k,
            kv_type_v=self.kv_type_v,
            flash_attention=self.flash_attention,
        )


class OpenMesh:
    """All that an open mesh consists of, and how to close it."""

    def __init__(
        self,
        order: ModelOrder,
        plan: Plan,
        left_out: tuple[LeftOutWorker, ...],
        vocabulary: Vocabulary,
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
        self.admission = Admission(vocabulary, order.params.n_ctx_seq)
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
        ValueError: Options that cannot be.
    """
    async with contextlib.AsyncExitStack() as resources:
        with _native_errors():
            return await _open(options, on_progress, resources)


async def _open(options: MeshOptions, on_progress: OnProgress, resources: contextlib.AsyncExitStack) -> OpenMesh:
    order, vocabulary = await _read_model(options, resources)
    found = await _find_workers(options, on_progress, resources)
    clients = _connect(found, resources)
    on_progress(LoadEvent(LoadPhase.PLANNING, f"planning {order.name} over {_count(len(found.found), 'worker')}"))
    plan = await confirmed_plan(order, found.found, clients, layer_ranges=options.layer_ranges, left_out=found.left_out)
    session_id = secrets.token_hex(8)
    in_line = {stage.worker: clients[stage.worker] for stage in plan.stages}
    plan = await load_stages(order, plan, in_line, session_id=session_id, epoch=_FIRST_EPOCH, on_progress=on_progress)
    resources.push_async_callback(unload_stages, list(in_line.values()), session_id)
    session = await _start_session(options, order, plan, vocabulary, session_id, list(in_line.values()))
    resources.push_async_callback(session.close)
    on_progress(LoadEvent(LoadPhase.READY, plan.explain()))
    return OpenMesh(order, plan, found.left_out, vocabulary, session, resources.pop_all())


async def _read_model(options: MeshOptions, resources: contextlib.AsyncExitStack) -> tuple[ModelOrder, Vocabulary]:
    file: ModelFile = resolve_model(options.model)
    layout = await asyncio.to_thread(read_layout, file.path)
    check_splittable(layout)
    order = ModelOrder(file.name, layout, options.context_params(layout.n_ctx_train))
    vocabulary = await asyncio.to_thread(Vocabulary.load, file.path)
    resources.callback(vocabulary.close)
    return order, vocabulary


async def _find_workers(
    options: MeshOptions, on_progress: OnProgress, resources: contextlib.AsyncExitStack
) -> Discovery:
    """The workers that will take part; starts some here if asked to and there are none."""
    if options.discover:
        on_progress(LoadEvent(LoadPhase.DISCOVERING, "looking for workers on the network"))
    wanted = None if options.layer_ranges is None else len(options.layer_ranges)
    found = await discover(options.workers, mdns=options.discover, timeout_s=options.discovery_timeout_s, wanted=wanted)
    for worker in found.left_out:
        if worker.address in options.workers:
            raise worker.error
        on_progress(LoadEvent(LoadPhase.LEFT_OUT, f"left out: {worker.name}: {worker.reason}", worker=worker.name))
    if found.found:
        return found
    if not options.local_workers:
        raise _no_workers(found.left_out)
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
    return Discovery(started.found, found.left_out)


def _connect(found: Discovery, resources: contextlib.AsyncExitStack) -> Mapping[str, WorkerClient]:
    clients = {}
    for worker in found.found:
        clients[worker.name] = client = WorkerClient(worker.address, worker.name)
        resources.push_async_callback(client.close)
    return clients


async def _start_session(
    options: MeshOptions,
    order: ModelOrder,
    plan: Plan,
    vocabulary: Vocabulary,
    session_id: str,
    clients: Sequence[WorkerClient],
) -> Session:
    params, stages = order.params, plan.stages
    limits = Limits(
        n_slots=params.n_seq_max,
        n_batch=params.n_batch,
        n_ctx=params.n_ctx_seq,
        n_stages=len(stages),
        n_waiting=options.queue,
    )
    ends = await asyncio.to_thread(_end_tokens, vocabulary)
    spec = LineSpec(
        session_id,
        _FIRST_EPOCH,
        stages=tuple(Callee(stage.worker, stage.address, stage.layers) for stage in stages),
        n_batch=params.n_batch,
        n_embd=order.layout.n_embd,
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
