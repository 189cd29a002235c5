# SPDX-License-Identifier: MIT
"""Taking in workers that came back or are new, while a line serves: who is there, whether the line would be much better
with them, and when to change it. What can be prepared is, beside the line that serves: a worker that joins has its
stage loaded before. Used by `recovery`, on the event loop, which changes the line.

When it is changed (`is_worth_a_pause`): at once where nothing runs; while requests run, if what they gain, should they
take half of the tokens that they may, is more than the pause; after five minutes all the same, unless the pause would
be more than a minute. A line that takes more than a minute to load is not changed to.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from coordinator.control import WorkerClient
from coordinator.errors import CaravanError
from coordinator.loading import prepare_stages, unload_stages
from coordinator.plan import Plan, Stage
from coordinator.prediction import PROMPT_TOKENS
from coordinator.regrouping import Better, Group, Need, Regrouping
from coordinator.session import Session
from coordinator.vigil import while_all_answer
from coordinator.weights.delivery import tensors_of
from coordinator.welcome import Welcome
from coordinator.workers import FoundWorker, Health
from native import ModelLayout
from protos.weights import is_held

_LOG = logging.getLogger(__name__)

LOOK_EVERY_S = 10.0
"""At the addresses of those who are known, or were given, and are not in the line."""

_LISTEN_EVERY = 3
"""Looks, until one is by mDNS, too: that takes this process 35 ms of computing, part of which holds up its loop."""

_LOOK_FOR_A_MOMENT_S = 0.25
"""How often is looked whether the line may be changed now."""

_QUIET_S = 1.0
"""Without a request: between two of one conversation there is often less."""

_MOST_WAIT_S = 300.0
"""For a good moment."""

_LONGEST_PAUSE_S = 60.0

_LEAST_PAUSE_S = 0.5
"""Of any change: streams are closed and opened, caches cleared."""

_READS_BYTES_PER_S = 1e9
"""A stage that is loaded from the machine's own disk or page cache: what an NVMe disk gives."""

_FETCHES_BYTES_PER_S = 50e6
"""Weights that come over the network: half of what 1 Gbit/s carries."""

_TOKENS_PER_S = 100.0
"""Of prompts that are prefilled, where it is not known."""


@dataclass(frozen=True, slots=True)
class Change:
    """A line that is ready to take the place of the one that serves.

    Attributes:
        group: Over whom, connected; `connections` closes that.
        joined: Names of those who were not in the line.
        left: The clients of those who are in it, and not in this one.
    """

    better: Better
    group: Group
    joined: tuple[str, ...]
    left: tuple[WorkerClient, ...]
    connections: contextlib.AsyncExitStack

    @property
    def plan(self) -> Plan:
        """The new one."""
        return self.better.plan


def is_worth_a_pause(gain: float | None, speed: float | None, n_tokens_left: int, pause_s: float) -> bool:
    """Whether requests that run are done sooner with the pause than without.

    Args:
        gain: How many times as fast the line will be; None: not known.
        speed: Tokens per second of a stream in the line as it is; None: not known.
        n_tokens_left: The most that any of the requests may still have; half of it counts.
    """
    if gain is None or speed is None or gain <= 1:
        return False
    left_s = n_tokens_left / 2 / speed
    return left_s * (1 - 1 / gain) > pause_s


def pause_s(better: Better, had: Plan, n_tokens: int) -> float:
    """What changing the line takes: stages that are loaded anew on workers that are in the line, and prefilling.

    Args:
        n_tokens: Of all that runs.
    """
    layout, workers = better.order.model.layout, {worker.name: worker for worker in better.order.workers}
    before = had.ranges
    changed = [stage for stage in better.plan.stages if before.get(stage.worker, stage.layers) != stage.layers]
    load_s = max((_load_s(layout, stage, workers[stage.worker]) for stage in changed), default=0.0)
    prediction = better.plan.prediction
    ttft_s = None if prediction is None else prediction.ttft_s
    prefill_s = n_tokens / (PROMPT_TOKENS / ttft_s if ttft_s else _TOKENS_PER_S)
    return _LEAST_PAUSE_S + load_s + prefill_s


def _load_s(layout: ModelLayout, stage: Stage, worker: FoundWorker) -> float:
    needed = tensors_of(layout, stage.layers)
    missing = [tensor for tensor in needed if worker.weights_port and not is_held(worker.held_tensors, tensor)]
    needed_bytes, missing_bytes = (sum(layout.tensors[tensor].n_bytes for tensor in some) for some in (needed, missing))
    return needed_bytes / _READS_BYTES_PER_S + missing_bytes / _FETCHES_BYTES_PER_S


class Joining:
    """For one line of a mesh.

    Args:
        turn: Held by the one that chooses workers.
        need: What the line needs that serves now.
        begin_epoch: A fresh one, in which stages of this plan are loaded.
        change: Changes the line, and takes over the connections.
    """

    def __init__(
        self,
        regrouping: Regrouping,
        turn: asyncio.Lock,
        *,
        need: Callable[[], Need],
        begin_epoch: Callable[[Plan], int],
        change: Callable[[Change], Awaitable[None]],
    ) -> None:
        self._regrouping = regrouping
        self._worker_timeout_s = regrouping.options.worker_timeout
        self._turn = turn
        self._need = need
        self._begin_epoch = begin_epoch
        self._change = change
        self.welcome = Welcome()
        self.claimed: frozenset[str] = frozenset()
        """Names of workers that are being prepared: other lines leave them alone."""

    async def run(self, session: Session) -> None:
        """Looks, again and again, until the line was changed. To be cancelled when it breaks."""
        for number in itertools.count(1):
            await asyncio.sleep(LOOK_EVERY_S)
            async with contextlib.AsyncExitStack() as connections:
                change = await self._ready(session, connections, listens=number % _LISTEN_EVERY == 0)
                if change is not None:
                    await self._change(change)
                    return

    async def _ready(self, session: Session, connections: contextlib.AsyncExitStack, *, listens: bool) -> Change | None:
        """A change that is prepared, at a good moment for it; None: there is none. Nobody who serves has to suffer from
        what goes wrong here."""
        change = None
        try:
            change = await self._look(session, connections, listens=listens)
        except CaravanError as error:
            _LOG.info("nobody was taken in: %s", error)
        except Exception:
            _LOG.exception("nobody was taken in, for a reason nobody foresaw")
        finally:
            if change is None:
                self.claimed = frozenset()
        return change

    async def _look(self, session: Session, connections: contextlib.AsyncExitStack, *, listens: bool) -> Change | None:
        async with self._turn:
            beside = await self._regrouping.beside(self._need(), listens=listens)
        newcomers = self.welcome.worth_a_thought(beside, time.monotonic())
        if not newcomers:
            return None
        change = await self._considered(newcomers, connections)
        return change if change is not None and await self._prepare(session, change) else None

    async def _considered(
        self, newcomers: Sequence[FoundWorker], connections: contextlib.AsyncExitStack
    ) -> Change | None:
        """The line with them, if it is much better."""
        self.welcome.note_considered(newcomers, time.monotonic())
        need = self._need()
        had = need.had.ranges.keys()
        self.claimed = frozenset(worker.name for worker in newcomers)
        async with self._turn:
            group = await self._regrouping.gather(need, connections)
        now_s = time.monotonic()
        workers = tuple(
            each for each in group.workers if each.name in had or not self.welcome.is_banned(each.name, now_s)
        )
        group = Group(workers, group.clients)
        if not self.claimed & set(group.names):
            return None
        better = await self._regrouping.better(need, group)
        self.welcome.note_considered(workers, now_s)
        if better is None:
            return None
        estimate_s = pause_s(better, need.had, 0)
        if estimate_s > _LONGEST_PAUSE_S:
            _LOG.info("a better line is not taken, because changing would take %.0f s", estimate_s)
            return None
        used = better.plan.ranges.keys()
        left = tuple(group.clients[name] for name in sorted(had - used))
        self.claimed = frozenset(used - had)
        return Change(better, group, tuple(sorted(used - had)), left, connections)

    async def _prepare(self, session: Session, change: Change) -> bool:
        """Loads what can be beside the line, and waits for a good moment. False: somebody is gone again.

        When this is cancelled, because the line broke, what is loaded is left to whoever opens another.

        Raises:
            CaravanError: A worker failed.
        """
        order, plan, session_id = change.better.order, change.plan, self._need().session_id
        epoch = self._begin_epoch(plan)
        clients = [change.group.clients[name] for name in change.joined]
        loads = prepare_stages(order, plan, change.joined, session_id=session_id, epoch=epoch)
        try:
            await while_all_answer(loads, clients, self._worker_timeout_s)
            is_ready = await self._good_moment(session, change, Health(session_id, epoch))
        except CaravanError:
            await self._drop(change, session_id)
            raise
        if not is_ready:
            await self._drop(change, session_id)
        return is_ready

    async def _drop(self, change: Change, session_id: str) -> None:
        """They are not taken in."""
        for name in change.joined:
            self.welcome.note_failed(name, time.monotonic())
        await unload_stages([change.group.clients[name] for name in change.joined], session_id)

    async def _good_moment(self, session: Session, change: Change, health: Health) -> bool:
        """Returns when the line may be changed; False: somebody who was to join is gone again."""
        began_s = quiet_since_s = asked_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            if session.n_running or session.n_waiting:
                quiet_since_s = now_s
            if now_s - quiet_since_s >= _QUIET_S:
                return True
            if now_s - asked_s >= self._worker_timeout_s:
                asked_s = now_s
                if not await self._are_there(change, health):
                    return False
            better = change.better
            estimate_s = pause_s(better, self._need().had, session.n_tokens_held)
            if now_s - began_s >= _MOST_WAIT_S and estimate_s <= _LONGEST_PAUSE_S:
                return True
            if is_worth_a_pause(better.gain, better.speed, session.n_tokens_left, estimate_s):
                return True
            await asyncio.sleep(_LOOK_FOR_A_MOMENT_S)

    async def _are_there(self, change: Change, health: Health) -> bool:
        """Whether those who are to join still hold what they were given."""
        questions = [change.group.clients[name].health() for name in change.joined]
        try:
            answers = await asyncio.wait_for(asyncio.gather(*questions), self._worker_timeout_s)
        except (CaravanError, asyncio.TimeoutError):
            return False
        return all(answer == health for answer in answers)
