# SPDX-License-Identifier: MIT
"""A draft model on a worker: a line of one stage beside the one that it drafts for, with a session of its own. Loads
it, drives `draft_schedule` with what comes of it, and when it is lost loads it there again; until then the session that
it drafts for goes on without guesses. On its event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.control import WorkerClient
from coordinator.draft_schedule import DraftSchedule
from coordinator.errors import CaravanError, DoesNotFitError
from coordinator.events import LineChange, LineEvent, OnLineEvent, tell
from coordinator.line import Line, LineBrokenError, LineSpec
from coordinator.loading import end_session
from coordinator.offers import DraftContext
from coordinator.orders import StageOrder
from coordinator.session import Session
from coordinator.statuses import Callee
from coordinator.weights.delivery import Delivery
from coordinator.weights.offering import offer_all
from coordinator.weights.progress import LoadReport
from coordinator.workers import FoundWorker, StageMemory
from native import ContextParams, LayerRange

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 10.0
"""Between tries to load it again."""


@dataclass(frozen=True, slots=True)
class DraftOrder:
    """What is to draft, and where.

    Attributes:
        params: Of its context.
        n_vocab: Tokens that the line's model knows.
        delivery: Of its weights.
    """

    worker: FoundWorker
    params: ContextParams
    n_vocab: int
    delivery: Delivery


class RemoteDrafter:
    """Guesses for the slots of one line. `open` it, then `run`; `close` in any case."""

    def __init__(self, order: DraftOrder, on_event: OnLineEvent) -> None:
        self._order = order
        self._on_event = on_event
        worker = order.worker
        self._client = WorkerClient(worker.address, order.delivery.channels, worker.name, is_draft=True)
        self._session_id = ""
        self._line: Line | None = None
        self._schedule = self._new_schedule()
        self._wake = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def open(self) -> StageMemory:
        """Loads it, and connects; gives what it takes there.

        Raises:
            CaravanError: Why that cannot be; nothing is left loaded.
        """
        self._session_id = secrets.token_hex(8)
        try:
            memory = await self._load_making_room()
            self._line = await Line.open(self._spec(), [self._client])
        except BaseException:
            await end_session([self._client], self._session_id)
            raise
        self._schedule = self._new_schedule()
        return memory

    def run(self, session: Session) -> None:
        """Drafts for a session that has no requests yet."""
        session.draft_with(self.tell)
        self._keeping = asyncio.get_running_loop().create_task(self._keep(session))

    def tell(self, contexts: Sequence[DraftContext]) -> None:
        """How texts go on; never waits."""
        if contexts and self._line is not None:
            self._schedule.tell(contexts)
            self._wake.set()

    async def close(self) -> None:
        """Ends it, and frees what it takes."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._line is not None:
            await self._line.close()
        await end_session([self._client], self._session_id)
        await self._client.close()

    # ---- loading ----

    @property
    def _layers(self) -> LayerRange:
        return LayerRange(0, self._order.delivery.source.layout.n_layer)

    def _new_schedule(self) -> DraftSchedule:
        params, layout = self._order.params, self._order.delivery.source.layout
        return DraftSchedule(params.n_seq_max, params.n_batch, min(self._order.n_vocab, layout.n_vocab))

    def _spec(self) -> LineSpec:
        callee = Callee(self._order.worker.name, self._order.worker.address, self._layers)
        n_embd = self._order.delivery.source.layout.n_embd
        return LineSpec(self._session_id, 1, (callee,), self._order.params.n_batch, n_embd)

    async def _load_making_room(self) -> StageMemory:
        """What is kept warm there for some line may be in the way."""
        try:
            return await self._load()
        except DoesNotFitError:
            await self._client.unload()
            return await self._load()

    async def _load(self) -> StageMemory:
        delivery, layers = self._order.delivery, self._layers
        source = delivery.source
        offered = await offer_all(source, [self._order.worker], {self._order.worker.name: self._client})
        if offered.left_out:
            raise offered.left_out[0].error
        (worker,) = offered.workers
        async with delivery.to(worker, self._session_id, 1) as weights:
            load = self._client.load(
                self._session_id,
                1,
                StageOrder(source.told_path, source.layout.identity, layers, self._order.params),
                None,
                None,
                delivery.sources(worker, layers, [worker]),
                on_report=_ignore,
                on_needed=weights.give,
            )
            return await weights.during(load)

    # ---- keeping ----

    async def _keep(self, session: Session) -> None:
        """Drafts, and when that is over loads it again; for as long as it is not cancelled."""
        name = self._order.worker.name
        while True:
            reason = await self._draft(session)
            session.offer(None)
            message = f"the draft model on {name} is gone: {reason}; nothing is guessed until it is there again"
            tell(self._on_event, LineEvent(LineChange.DRAFT_LOST, message, name))
            await self._reopen()
            session.draft_again()
            message = f"the draft model is on {name} again, and guesses"
            tell(self._on_event, LineEvent(LineChange.DRAFT_BACK, message, name))

    async def _draft(self, session: Session) -> CaravanError:
        """Until its line breaks; why."""
        line = self._line
        assert line is not None, "it is open"
        parts = (self._receive(line, session), self._send(line), line.wait_until_fed())
        tasks = [asyncio.get_running_loop().create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._line = None
        for task in done:
            error = task.exception()
            if not isinstance(error, LineBrokenError):
                _LOG.error("the draft model's frames came to an end that nobody foresaw", exc_info=error)
        diagnosis = await line.diagnose([self._client])
        await line.close()
        return diagnosis.reason

    async def _receive(self, line: Line, session: Session) -> None:
        while True:
            result = await line.receive()
            took_s = result.stages[0].computed_s if result.stages else 0.0
            for offer in self._schedule.result(result.number, result.rows, took_s):
                session.offer(offer)
            self._wake.set()

    async def _send(self, line: Line) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if voids := self._schedule.take_voids():
                await line.call_void(voids)
            while (frame := self._schedule.next_frame()) is not None:
                await line.send(frame)

    async def _reopen(self) -> None:
        """However often it takes."""
        pause_s = _FIRST_PAUSE_S
        while True:
            await end_session([self._client], self._session_id)
            await asyncio.sleep(pause_s)
            with contextlib.suppress(CaravanError):
                await self.open()
                return
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)


def _ignore(_report: LoadReport) -> None:
    """Small models are loaded before anybody would look at a bar."""
