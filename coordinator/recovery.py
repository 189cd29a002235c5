# SPDX-License-Identifier: MIT
"""Going on: when the line of a session breaks, another one is opened over whoever is there, with the next epoch of the
session, and the session carries on over that. One path for whatever happened and to whom, a loop that begins again when
it fails. A line that could be better is changed in the same way, but that what is in it comes to its end before, and
that `joining` has prepared what it can. On the session's event loop.

The next epoch of the same session, not another session: a worker lets a stage of an older epoch go for it at once, also
while its streams are open to a neighbour that is dead, and what comes of older epochs is told apart by its number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.claims import Claims
from coordinator.confirming import PlanOrder
from coordinator.connecting import StandingLine, connect
from coordinator.control import WorkerClient
from coordinator.errors import (
    CaravanError,
    EngineError,
    FrameRefusedError,
    SessionLostError,
    WorkerError,
    WorkerLostError,
    WorkerSilentError,
)
from coordinator.events import LineChange, LineEvent, OnLineEvent, ignore, tell
from coordinator.joining import Change, Joining
from coordinator.line import Diagnosis, Line
from coordinator.loading import LoadedLine, end_session, let_go, load_stages_over, unload_stages
from coordinator.plan import Plan
from coordinator.regrouping import Group, Need, Regrouping
from coordinator.sequence import Limits
from coordinator.session import Session
from coordinator.statuses import Callee, forgotten, silent
from coordinator.strikes import Strikes
from coordinator.team import counted
from coordinator.vigil import Vigil, while_all_answer
from coordinator.workers import Health

_LOG = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
"""While requests wait for workers to return."""

_LOOK_SLOWLY_S = 5.0
"""When they do not wait any more."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 3.0
"""Between tries that fail in another way, and before a line that follows one that brought nothing."""

_REMEMBERED = 1000
"""Lines that carried on."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A line that carried on.

    Attributes:
        reason: Why the one before broke.
        n_streams: Requests that were running.
        pause_s: From the break until it stood, in seconds.
    """

    reason: CaravanError
    n_streams: int
    pause_s: float


@dataclass(frozen=True, slots=True)
class Joined:
    """A line that took the place of another because more, or better, workers were there.

    Attributes:
        workers: Names of those who were not in the line before.
        n_streams: Requests that were running.
        pause_s: For which there was no line, in seconds.
    """

    workers: tuple[str, ...]
    n_streams: int
    pause_s: float


class Recovery:
    """Keeps a session on a line.

    Args:
        limits: Of the session, whatever the line.
        claims: Of all lines that this one shares workers with.
    """

    def __init__(
        self,
        regrouping: Regrouping,
        limits: Limits,
        claims: Claims,
        on_event: OnLineEvent,
    ) -> None:
        self._regrouping = regrouping
        self._options = regrouping.options
        self._limits = limits
        self._claims = claims
        self._turn = claims.turn
        self._on_event = on_event
        self._epoch = 0
        self._strikes = Strikes()
        self._n_barren = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._connections = contextlib.AsyncExitStack()
        self._loaded_on: dict[str, str] = {}
        self.recovered: deque[Recovered] = deque(maxlen=_REMEMBERED)
        self.joined: deque[Joined] = deque(maxlen=_REMEMBERED)
        self._joining = Joining(
            regrouping,
            claims.turn,
            need=lambda: self._need(frozenset()),
            begin_epoch=self._begin_epoch,
            change=self._change,
        )
        self._looking: asyncio.Task[None] | None = None
        self.may_stay_warm = True
        """Whether workers may keep its stages when it is closed."""

    @property
    def claimed(self) -> frozenset[str]:
        """Names of the workers that are its own: in its line, or about to be."""
        return self._joining.claimed.union(self.plan.ranges)

    @property
    def plan(self) -> Plan:
        """Of the line that serves; while there is none, of the last one."""
        return self._standing.plan

    @property
    def clients(self) -> Sequence[WorkerClient]:
        """Of the workers of that line."""
        return self._standing.clients

    def begin(self, session: Session, standing: StandingLine) -> None:
        """The first line stands. Call it once."""
        self._session = session
        self._epoch = standing.epoch
        self._claims.enter(self)
        self._claims.has_served = True
        self._regrouping.note_first(standing.plan)
        self._joining.welcome.note_considered(self._regrouping.first_workers, time.monotonic())
        self._stand(standing)

    def note_broken(self, line: Line) -> None:
        """The session has let go of this line."""
        for task in (self._watching, self._looking):
            if task is not None:
                task.cancel()
        self._spawn(self._recover(line))

    async def close(self) -> None:
        """Ends what is under way, and the session on its workers, whose stages may stay warm. The session is closed."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._standing.clients:
            self._loaded_on.pop(client.callee.address, None)
        others = [WorkerClient(address, self._regrouping.channels, name) for address, name in self._loaded_on.items()]
        end = end_session if self.may_stay_warm else unload_stages
        await end([*self._standing.clients, *others], self._standing.session_id)
        self._claims.leave(self)
        for client in others:
            await client.close()
        await self._connections.aclose()

    # ---- watching ----

    def _stand(self, standing: StandingLine) -> int:
        """From now on this line carries on; gives the number of streams that run."""
        self._standing = standing
        self._joining.claimed = frozenset()
        vigil = Vigil(
            standing.clients,
            self._options.worker_timeout,
            is_needed=lambda: self._session.n_in_flight > 0,
            on_silent=lambda callee: standing.line.abandon(silent(callee, self._options.worker_timeout)),
            on_health=self._note_health,
        )
        self._watching = self._spawn(vigil.run())
        if self._options.rejoin:
            self._looking = self._spawn(self._joining.run(self._session))
        return self._session.carry_on(standing.line, standing.limits(self._limits), standing.pace)

    def _note_health(self, callee: Callee, health: Health) -> None:
        standing = self._standing
        if health != Health(standing.session_id, standing.epoch):
            standing.line.abandon(forgotten(callee))

    # ---- going on ----

    async def _recover(self, broken: Line) -> None:
        began_s = time.monotonic()
        diagnosis = await broken.diagnose(self._standing.clients)
        reason = diagnosis.reason
        await broken.close()
        if isinstance(reason, FrameRefusedError):
            self._session.give_up(reason, for_good=True)
            self._tell(LineEvent(LineChange.GAVE_UP, f"{reason}; requests are refused until the mesh is opened again"))
            return
        self._tell(LineEvent(LineChange.LOST, f"the line broke: {reason}", _culprit(reason)))
        self._session.note_break(reason, is_of_link=diagnosis.is_of_link)
        await self._pause_after_barren()
        await self._go_on(diagnosis, began_s)

    async def _go_on(self, diagnosis: Diagnosis, began_s: float) -> None:
        """Over another line, however long it takes to open one."""
        reason = diagnosis.reason
        culprit = _culprit(reason)
        if culprit is not None:
            self._joining.welcome.note_failed(culprit, began_s)
        self._joining.welcome.forget_considered()
        standing = await self._reopened(diagnosis, began_s)
        if standing is None or not await self._is_wanted(standing):
            return
        n_streams, pause_s = self._stand(standing), time.monotonic() - began_s
        self.recovered.append(Recovered(reason, n_streams, pause_s))
        is_gone = culprit and culprit not in standing.plan.ranges
        what = f"worker {culprit} was lost" if is_gone else "the line broke"
        message = f"{what}: {_going_on(standing.plan, n_streams, pause_s)}"
        self._tell(LineEvent(LineChange.RESUMED, message, culprit, n_streams, pause_s))

    async def _is_wanted(self, standing: StandingLine) -> bool:
        """Whether the session is to carry on; else the line is let go of."""
        if self._session.is_over:
            await standing.line.close()
            await end_session(standing.clients, standing.session_id)
        return not self._session.is_over

    # ---- another line though this one serves ----

    async def _change(self, change: Change) -> None:
        """To a line that is prepared. What is in the one that serves comes to its end, and is prefilled in the new one;
        if that cannot be opened, whatever can be."""
        before = self._standing
        async with self._turn:
            if not await self._session.leave(before.line):
                return
            began_s = time.monotonic()
            if self._watching is not None:
                self._watching.cancel()
            await before.line.close()
            clients = [change.group.clients[stage.worker] for stage in change.plan.stages]
            opening = self._open_over(change.better.order, change.plan, before.session_id, change.left)
            try:
                standing = await while_all_answer(opening, clients, self._options.worker_timeout)
            except Exception as error:
                failure = _as_ours(error)
            else:
                if not await self._is_wanted(standing):
                    return
                connections, self._connections = self._connections, change.connections.pop_all()
                self._note_joined(change, self._stand(standing), time.monotonic() - began_s)
                await connections.aclose()
                return
        self._tell(LineEvent(LineChange.LOST, f"the line could not be changed: {failure}", _culprit(failure)))
        for name in change.joined:
            self._joining.welcome.note_failed(name, began_s)
        await self._go_on(_diagnosis_of(failure), began_s)

    def _note_joined(self, change: Change, n_streams: int, pause_s: float) -> None:
        self.joined.append(Joined(change.joined, n_streams, pause_s))
        workers = f"worker{'' if len(change.joined) == 1 else 's'} {_listed(change.joined)}"
        message = f"{workers} joined: {_going_on(change.plan, n_streams, pause_s)}"
        self._tell(LineEvent(LineChange.JOINED, message, change.joined[0], n_streams, pause_s))

    # ---- opening one ----

    async def _pause_after_barren(self) -> None:
        """Lines that break before they brought anything follow each other ever more slowly."""
        if self._session.frames.records:
            self._n_barren = 0
            self._strikes.note_worked(time.monotonic())
        else:
            self._n_barren += 1
            await asyncio.sleep(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**self._n_barren))

    async def _reopened(self, diagnosis: Diagnosis, began_s: float) -> StandingLine | None:
        """Another line, however long that takes; None: the session is over."""
        reason = diagnosis.reason
        self._note_strike(diagnosis, [stage.worker for stage in self.plan.stages])
        n_failed, is_waiting = 0, False
        while not self._session.is_over:
            try:
                return await self._reopen(diagnosis.gone)
            except Exception as error:
                failure = _as_ours(error)
            diagnosis = _diagnosis_of(failure)
            self._note_strike(diagnosis)
            n_failed += 1
            if not is_waiting and _is_lack(failure):
                is_waiting = True
                self._tell(LineEvent(LineChange.WAITING, f"waiting for workers to return: {failure}"))
            if self._session.error is None and time.monotonic() - began_s >= self._options.recovery_timeout:
                self._give_up(reason, failure)
            await asyncio.sleep(self._pause_s(failure, n_failed))
        return None

    def _pause_s(self, failure: CaravanError, n_failed: int) -> float:
        if self._session.error is not None:
            return _LOOK_SLOWLY_S
        if _is_lack(failure):
            return _LOOK_EVERY_S
        return float(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**n_failed))

    def _note_strike(self, diagnosis: Diagnosis, line: Sequence[str] = ()) -> None:
        """`line`: the workers of the one that broke, if it stood: a link that failed is also that of the one before."""
        error, is_of_link = diagnosis.reason, diagnosis.is_of_link
        if isinstance(error, WorkerLostError | EngineError):
            place = line.index(error.worker) if is_of_link and error.worker in line else 0
            neighbour = line[place - 1] if place > 0 else None
            self._strikes.note(error.worker, time.monotonic(), is_of_link=is_of_link, neighbour=neighbour)

    def _give_up(self, reason: CaravanError, failure: CaravanError) -> None:
        waited = f"{self._options.recovery_timeout:g} s"
        message = (
            f"the line broke ({reason}), and {waited} later there was no other ({failure}); the workers are looked for"
            " all the same: try again when they are back"
        )
        culprit = reason if isinstance(reason, WorkerError) else None
        error = WorkerLostError(
            message,
            worker=culprit.worker if culprit else "",
            layers=culprit.layers if culprit else None,
            retry_safe=True,
        )
        self._session.give_up(error)
        self._tell(LineEvent(LineChange.GAVE_UP, message, error.worker or None))

    async def _reopen(self, gone: frozenset[str]) -> StandingLine:
        """One try.

        Args:
            gone: Workers that are not worth asking now.

        Raises:
            CaravanError: It failed; what was loaded stays loaded for the next one.
        """
        async with self._turn, contextlib.AsyncExitStack() as connections:
            need = self._need(gone)
            group = await self._regrouping.gather(need, connections)
            clients = [group.clients[worker.name] for worker in group.workers]
            opening = self._open(need, group)
            standing = await while_all_answer(opening, clients, self._options.worker_timeout)
            before, self._connections = self._connections, connections.pop_all()
        await before.aclose()
        return standing

    def _need(self, gone: frozenset[str]) -> Need:
        taken = self._claims.of_others(self)
        return Need(self._standing.session_id, self.plan, taken, gone, self._strikes.doubtful)

    async def _open(self, need: Need, group: Group) -> StandingLine:
        order, plan = await self._regrouping.plan(need, group)
        used = plan.ranges
        unused = [group.clients[name] for name in _holding(group, need.session_id) if name not in used]
        self._epoch = max(self._epoch, *_epochs(group, need.session_id))
        return await self._open_over(order, plan, need.session_id, unused)

    async def _open_over(
        self, order: PlanOrder, plan: Plan, session_id: str, unused: Sequence[WorkerClient]
    ) -> StandingLine:
        """A line by this plan; those who have something of the session and are not in it let go of that."""
        await unload_stages(unused, session_id)
        await let_go(order, [plan])
        epoch = self._begin_epoch(plan)
        plan = await load_stages_over(order, plan, session_id=session_id, epoch=epoch, on_progress=ignore)
        clients = tuple(order.clients[stage.worker] for stage in plan.stages)
        return await connect(order.model, LoadedLine(plan, session_id, clients), epoch)

    def _begin_epoch(self, plan: Plan) -> int:
        """A fresh one, in which stages of this plan are loaded."""
        self._loaded_on |= {stage.address: stage.worker for stage in plan.stages}
        self._epoch += 1
        return self._epoch

    # ---- around it ----

    def _tell(self, event: LineEvent) -> None:
        tell(self._on_event, event)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # one that was cancelled before it began never got to it
        return task

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            # Nothing may hang because of a fault of ours.
            _LOG.exception("no other line could be opened")
            self._session.give_up(EngineError(f"the line could not go on: {error}", worker=""), for_good=True)


def _as_ours(error: Exception) -> CaravanError:
    """What a try failed with. Also where that was a fault of ours the next one may succeed, and if none does requests
    fail in time."""
    if isinstance(error, CaravanError):
        _LOG.info("no line yet: %s", error)
        return error
    _LOG.error("opening another line failed for a reason nobody foresaw", exc_info=error)
    return EngineError(f"opening another line failed: {error}", worker="")


def _diagnosis_of(failure: CaravanError) -> Diagnosis:
    """Of a line that did not stand: who was silent is not worth asking now."""
    return Diagnosis(failure, frozenset((failure.worker,) if isinstance(failure, WorkerSilentError) else ()))


def _is_lack(error: CaravanError) -> bool:
    """Whether workers have to return before there can be a line."""
    return not isinstance(error, WorkerError)


def _culprit(reason: CaravanError) -> str | None:
    return reason.worker or None if isinstance(reason, WorkerLostError | SessionLostError) else None


def _holding(group: Group, session_id: str) -> list[str]:
    """The names of those who have something of the session."""
    return [worker.name for worker in group.workers if any(held.session_id == session_id for held in worker.loaded)]


def _epochs(group: Group, session_id: str) -> list[int]:
    return [held.epoch for worker in group.workers for held in worker.loaded if held.session_id == session_id] or [0]


def _going_on(plan: Plan, n_streams: int, pause_s: float) -> str:
    streams = counted(n_streams, "stream")
    return f"going on with {_listed(list(plan.ranges))}, {streams} resumed after {pause_s:.1f} s"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
