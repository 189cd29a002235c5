# SPDX-License-Identifier: MIT
"""Whether workers live: each is asked every second while something depends on it, and one that has been silent for too
long is named. Health is answered also while a worker computes or loads. Used by `recovery`, on the event loop.

A coordinator that was itself suspended, or whose loop was held up, has heard nobody in that time: it does not count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from coordinator.control import WorkerClient
from coordinator.statuses import Callee, silent
from coordinator.workers import Health

_T = TypeVar("_T")

_ASK_EVERY_S = 1.0
"""At most; a quarter of what one may be silent, where that is less."""

_TICK_S = 0.25
"""How often is looked who has answered. Of a tick that lasts longer than twice that, the rest was not ours."""


class Silence:
    """How long one worker has been silent, by the ticks of whoever asks. Pure.

    Args:
        limit_s: How long it may be.
    """

    def __init__(self, limit_s: float) -> None:
        self.silent_s = 0.0
        self._limit_s = limit_s
        self._ask_every_s = min(_ASK_EVERY_S, limit_s / 4)
        self._since_asked_s = _ASK_EVERY_S

    @property
    def is_too_long(self) -> bool:
        """Whether it has been silent for longer than it may."""
        return self.silent_s >= self._limit_s

    def note_answer(self) -> None:
        """It answered."""
        self.silent_s = 0.0

    def tick(self, elapsed_s: float) -> bool:
        """So much time has gone; whether it is to be asked again, if no question is open."""
        counted_s = min(elapsed_s, 2 * _TICK_S)
        self.silent_s += counted_s
        self._since_asked_s += counted_s
        if self._since_asked_s < self._ask_every_s:
            return False
        self._since_asked_s = 0.0
        return True


class Vigil:
    """Asks some workers, as long as `run` runs.

    Args:
        limit_s: How long one may be silent, in seconds.
        is_needed: Whether anything depends on them now; while nothing does, nobody is asked.
        on_silent: Told of one that was silent for so long, each time it is found to be.
        on_health: Told of each answer.
    """

    def __init__(
        self,
        clients: Iterable[WorkerClient],
        limit_s: float,
        *,
        is_needed: Callable[[], bool],
        on_silent: Callable[[Callee], None],
        on_health: Callable[[Callee, Health], None] = lambda _callee, _health: None,
    ) -> None:
        self._clients = tuple(clients)
        self._limit_s = limit_s
        self._is_needed = is_needed
        self._on_silent = on_silent
        self._on_health = on_health
        self._questions: dict[int, asyncio.Task[Health]] = {}

    async def run(self) -> None:
        """Never returns; to be cancelled."""
        try:
            while True:
                await self._sleep_until_needed()
                await self._watch()
        finally:
            self._drop_questions()

    async def _sleep_until_needed(self) -> None:
        while not self._is_needed():  # noqa: ASYNC110 -- a look four times a second, where an event would cost each frame
            await asyncio.sleep(_TICK_S)

    async def _watch(self) -> None:
        silences = [Silence(self._limit_s) for _ in self._clients]
        before_s = time.monotonic()
        while self._is_needed():
            now_s = time.monotonic()
            for number, silence in enumerate(silences):
                self._look(number, silence, now_s - before_s)
            before_s = now_s
            await asyncio.sleep(_TICK_S)
        self._drop_questions()

    def _look(self, number: int, silence: Silence, elapsed_s: float) -> None:
        client, question = self._clients[number], self._questions.get(number)
        if question is not None and question.done():
            del self._questions[number]
            if not question.cancelled() and question.exception() is None:
                silence.note_answer()
                self._on_health(client.callee, question.result())
        is_due = silence.tick(elapsed_s)
        if silence.is_too_long:
            self._on_silent(client.callee)
        elif is_due and number not in self._questions:
            self._questions[number] = asyncio.get_running_loop().create_task(client.health())

    def _drop_questions(self) -> None:
        for question in self._questions.values():
            question.cancel()
            question.add_done_callback(_look_away)
        self._questions.clear()


def _look_away(question: asyncio.Task[Health]) -> None:
    """Takes note of how it ended, or asyncio complains that nobody did."""
    if not question.cancelled():
        question.exception()


async def while_all_answer(work: Coroutine[Any, Any, _T], clients: Sequence[WorkerClient], limit_s: float) -> _T:
    """What the work gives, which needs all of these workers.

    Raises:
        WorkerSilentError: One was silent for so long; the work is cancelled, and over.
        CaravanError: As the work.
    """
    callee: asyncio.Future[Callee] = asyncio.get_running_loop().create_future()

    def note(who: Callee) -> None:
        if not callee.done():
            callee.set_result(who)

    vigil = Vigil(clients, limit_s, is_needed=lambda: True, on_silent=note)
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(vigil.run())
    try:
        await asyncio.wait((working, callee), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise silent(callee.result(), limit_s)
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
