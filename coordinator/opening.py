# SPDX-License-Identifier: MIT
"""Opening a mesh, step by step: resolve the model, find workers, connect to them, plan,
confirm, load, connect the line, start the session. What was opened is closed in the opposite order, also when a step
fails or is cancelled. Used by `mesh`, on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from coordinator.admission import Admission
from coordinator.claims import Claims, OpeningClaim, opening_claim
from coordinator.confirming import ModelOrder, PlanOrder, confirmed_plans, measure
from coordinator.connecting import connect, embedding_limits, limits_of
from coordinator.draft_opening import check_can_draft, open_draft_model, open_on_worker, start_drafter
from coordinator.errors import (
    CancelledError,
    CaravanError,
    InvalidRequestError,
    ModelError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from coordinator.events import LoadEvent, LoadPhase, OnLineEvent, OnProgress, ignore
from coordinator.loading import LoadedLine, asked_again, end_session, load_lines
from coordinator.local_workers import LocalWorkers
from coordinator.options import MeshOptions
from coordinator.plan import Demand, Plan
from coordinator.recovery import Recovery
from coordinator.regrouping import Regrouping
from coordinator.scheduler import Scheduler
from coordinator.session import Session
from coordinator.team import counted, gather_team
from coordinator.waiting import Clients
from coordinator.weights.delivery import Delivery
from coordinator.weights.here import fetch_event
from coordinator.weights.source import WeightSource
from coordinator.weights.sources import open_source
from coordinator.workers import FoundWorker
from native import (
    ChatTemplateError,
    ModelFileError,
    ModelFileNotFoundError,
    NativeError,
    Vocabulary,
    can_shift,
    check_splittable,
)
from native import UnsupportedModelError as NativeUnsupportedModelError

_FIRST_EPOCH = 1

_Read = TypeVar("_Read")
_Asked = TypeVar("_Asked")


@dataclass(frozen=True, slots=True)
class OpenLine:
    """A session, and what keeps it on a line."""

    session: Session
    recovery: Recovery

    @property
    def plan(self) -> Plan:
        """Of the line that serves; while there is none, of the last one."""
        return self.recovery.plan


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
        self.model_identity = order.layout.identity
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
        return min((line.session for line in self.lines), key=_load_of)

    @property
    def workers(self) -> Mapping[str, str]:
        """Those of its lines, and those that are about to join one: addresses by name, empty where not known."""
        joining = {name: "" for line in self.lines for name in line.recovery.claimed}
        return joining | {stage.worker: stage.address for line in self.lines for stage in line.plan.stages}

    def end_requests(self, error: CaravanError) -> None:
        """What runs and waits ends with this error, and so does what comes later: it is about to be closed."""
        for line in self.lines:
            line.session.give_up(error, for_good=True)

    async def close(self, *, may_stay_warm: bool = True) -> None:
        """Closes everything, once; whoever else calls waits for it.

        Args:
            may_stay_warm: Whether workers may keep what they have loaded, for a mesh that is opened soon.
        """
        if self._closing is None:
            for line in self.lines:
                line.recovery.may_stay_warm = may_stay_warm
            self._closing = asyncio.get_running_loop().create_task(self._resources.aclose())
        await asyncio.shield(self._closing)


def _load_of(session: Session) -> tuple[bool, bool, int]:
    return session.error is not None, session.is_suspended, session.n_running + session.n_waiting


async def open_mesh(
    options: MeshOptions, on_progress: OnProgress, on_event: OnLineEvent = ignore, claims: Claims | None = None
) -> OpenMesh:
    """Opens a mesh.

    Args:
        on_progress: Called with each step; what it raises, or False, calls everything off.
        on_event: Told of what becomes of its lines while it is open.
        claims: Of the other meshes of this coordinator, if there are some: what they have is left to them.

    Raises:
        CaravanError: What went wrong; nothing is left open.
    """
    async with contextlib.AsyncExitStack() as resources:
        with native_errors(), opening_claim(claims) as claim:
            return await _open(options, _obeyed(on_progress), on_event, resources, claim)


async def plan_mesh(
    options: MeshOptions, on_progress: OnProgress, claims: Claims | None = None, lent: Mapping[str, str] = {}
) -> tuple[Plan, ...]:
    """The plan of each line that opening a mesh would load, confirmed by the workers; nothing is loaded.

    Args:
        claims: As of `open_mesh`.
        lent: Workers that count as if the other meshes had let them go: addresses by name, empty where not known.

    Raises:
        CaravanError: As `open_mesh`.
    """
    async with contextlib.AsyncExitStack() as resources:
        with native_errors(), opening_claim(claims, lent) as claim:
            on_progress = _obeyed(on_progress)
            prepared = await _prepare(options, on_progress, resources, claim)
            return tuple(await confirmed_plans(prepared.order, on_progress))


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Lines that are loaded, and no more than that: without a session, and nobody who keeps them.

    Attributes:
        order: What was planned.
        admission: Makes tokens of texts.
    """

    order: PlanOrder
    source: WeightSource
    vocabulary: Vocabulary
    admission: Admission
    lines: tuple[LoadedLine, ...]


@contextlib.asynccontextmanager
async def loaded_model(options: MeshOptions, on_progress: OnProgress) -> AsyncIterator[LoadedModel]:
    """The lines that opening a mesh would use, loaded with the first epoch, for who wants to look at them alone.

    Raises:
        CaravanError: As `open_mesh`.
    """
    async with contextlib.AsyncExitStack() as resources:
        with native_errors(), opening_claim(None) as claim:
            on_progress = _obeyed(on_progress)
            prepared = await _prepare(options, on_progress, resources, claim)
            lines = await load_lines(prepared.order, on_progress, epoch=_FIRST_EPOCH, claim=claim.note)
            for line in lines:
                resources.push_async_callback(end_session, line.clients, line.session_id)
            on_progress(LoadEvent(LoadPhase.READY, "\n".join(line.plan.explain() for line in lines)))
            yield LoadedModel(prepared.order, prepared.source, prepared.vocabulary, prepared.admission, tuple(lines))


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
    source = await open_source(options.model, lambda step: on_progress(fetch_event(step)), options.max_bandwidth)
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
    params = options.params_for(source.layout)
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
    """All that is known before anything is planned.

    Attributes:
        ends: All end-of-generation tokens.
        drafting: The worker that a draft model is to be on, if it is to be on one.
    """

    order: PlanOrder
    source: WeightSource
    local: LocalWorkers | None
    vocabulary: Vocabulary
    ends: frozenset[int]
    admission: Admission
    drafting: FoundWorker | None = None


async def _open(
    options: MeshOptions,
    on_progress: OnProgress,
    on_event: OnLineEvent,
    resources: contextlib.AsyncExitStack,
    claim: OpeningClaim,
) -> OpenMesh:
    # Before workers of this machine tell how much memory they have.
    draft_model = await open_draft_model(options, on_progress, resources)
    prepared = await _prepare(options, on_progress, resources, claim)
    model, vocabulary, drafter = prepared.order.model, prepared.vocabulary, None
    if draft_model is not None:
        await check_can_draft(draft_model.name, draft_model.vocabulary, vocabulary, model.name)
    if prepared.drafting is not None:
        channels = prepared.order.delivery.channels
        drafter = await open_on_worker(
            options, prepared.drafting, model, vocabulary, channels, on_progress, on_event, resources
        )
        # What it takes there is not for the line.
        prepared = replace(prepared, order=await asked_again(prepared.order))
    loaded = await load_lines(prepared.order, on_progress, epoch=_FIRST_EPOCH, claim=claim.note)
    async with contextlib.AsyncExitStack() as loaded_lines:
        for line in loaded:
            loaded_lines.push_async_callback(end_session, line.clients, line.session_id)
        opened = await _start_lines(options, prepared, loaded, on_event, resources, claim.claims)
        loaded_lines.pop_all()
    if draft_model is not None:
        for each in opened:
            await start_drafter(draft_model, model.params, vocabulary.n_tokens, each.session, on_progress, resources)
    if drafter is not None:
        drafter.run(opened[0].session)
    resources.callback(prepared.admission.close)
    on_progress(LoadEvent(LoadPhase.READY, "\n".join(line.plan.explain() for line in opened)))
    return OpenMesh(prepared, tuple(opened), resources.pop_all())


async def _prepare(
    options: MeshOptions, on_progress: OnProgress, resources: contextlib.AsyncExitStack, claim: OpeningClaim
) -> _Prepared:
    source = await read_source(options, on_progress)
    resources.callback(source.close)
    order = order_of(source, options)
    reading = _read_model(order, options, resources)
    model, team = await _both(reading, gather_team(options, source, on_progress, resources, claim))
    found, workers, wishes = team.found, team.clients, team.wishes
    on_progress(LoadEvent(LoadPhase.PLANNING, f"planning {order.name} over {counted(len(found.found), 'worker')}"))
    delivery = Delivery(source, options.max_bandwidth, team.channels)
    plan_order = PlanOrder(
        order, model.demand, found.found, workers, wishes, options.predicted, delivery, found.left_out
    )
    return _Prepared(plan_order, source, team.local, model.vocabulary, model.ends, model.admission, team.drafting)


async def _both(reading: Coroutine[Any, Any, _Read], asking: Coroutine[Any, Any, _Asked]) -> tuple[_Read, _Asked]:
    """What two steps give that do not need each other. When one fails, the other is over when this raises: what asks
    others is cancelled, what reads is waited for."""
    read, asked = asyncio.ensure_future(reading), asyncio.ensure_future(asking)
    try:
        await asyncio.wait((read, asked), return_when=asyncio.FIRST_EXCEPTION)
        if read.done():
            read.result()
        return await read, await asked
    finally:
        asked.cancel()
        await asyncio.gather(read, asked, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Model:
    """What our own llama.cpp says of the model."""

    vocabulary: Vocabulary
    ends: frozenset[int]
    admission: Admission
    demand: Demand


async def _read_model(order: ModelOrder, options: MeshOptions, resources: contextlib.AsyncExitStack) -> _Model:
    vocabulary, ends = await asyncio.to_thread(_read_vocabulary, order)
    if not vocabulary.has_text:
        raise UnsupportedModelError(f"{order.name} has no vocabulary, so it can neither read nor write text")
    if options.context_shift and not await asyncio.to_thread(can_shift, order.layout, order.params):
        raise UnsupportedModelError(
            f"llama.cpp cannot shift the context of {order.name}: leave context_shift (--context-shift) out"
        )
    admission = Admission(
        vocabulary,
        order.params.n_ctx_seq,
        options.request_timeout,
        shifts=options.context_shift,
        embedding=embedding_limits(order.layout, order.params),
        writes=order.layout.writes,
    )
    resources.callback(admission.free)
    return _Model(vocabulary, ends, admission, await measure(order))


def _read_vocabulary(order: ModelOrder) -> tuple[Vocabulary, frozenset[int]]:
    """With its end-of-generation tokens: asked once, so that the scheduler stays pure."""
    vocabulary = Vocabulary.load(order.layout)
    return vocabulary, vocabulary.end_tokens


async def _start_lines(
    options: MeshOptions,
    prepared: _Prepared,
    loaded: Sequence[LoadedLine],
    on_event: OnLineEvent,
    resources: contextlib.AsyncExitStack,
    claims: Claims,
) -> list[OpenLine]:
    """A session on each line, and what keeps it on one."""
    model, vocabulary = prepared.order.model, prepared.vocabulary
    regrouping = Regrouping(options, prepared.source, prepared.order, prepared.local, on_event)
    limits, clients = limits_of(options, model, vocabulary), Clients(options.client_limit)
    opened = []
    for line in loaded:
        standing = await connect(model, line, _FIRST_EPOCH)
        recovery = Recovery(regrouping, limits, claims, on_event)
        scheduler = Scheduler(limits, prepared.ends, clients=clients)
        session = Session(scheduler, vocabulary.piece, recovery.note_broken)
        recovery.begin(session, standing)
        resources.push_async_callback(recovery.close)
        resources.push_async_callback(session.close)
        opened.append(OpenLine(session, recovery))
    return opened
