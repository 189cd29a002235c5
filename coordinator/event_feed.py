# SPDX-License-Identifier: MIT
"""What becomes of a mesh's lines, for as many as want to follow it: `Mesh.events` and `AsyncMesh.events`.

The mesh's own loop tells; whoever follows reads in a thread of their own (`LineEvents`), or on that loop
(`AsyncLineEvents`).
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from typing import TypeVar

from coordinator.errors import ClosedError
from coordinator.events import LineEvent, OnLineEvent
from coordinator.generation import Signal
from coordinator.loop_thread import ThreadSignal

_MOST_UNREAD = 1000
"""Events that wait for a reader; a line that comes and goes all day has some hundreds."""


class _Following:
    """Events that have come and are not read yet."""

    def __init__(self, signal: Signal) -> None:
        self._unread: deque[LineEvent] = deque(maxlen=_MOST_UNREAD)
        self._is_over = False
        self._came = signal

    def push(self, event: LineEvent) -> None:
        """Another one; of more than a thousand unread the oldest goes."""
        self._unread.append(event)
        self._came.set()

    def end(self) -> None:
        """No other comes."""
        self._is_over = True
        self._came.set()

    def _next(self) -> LineEvent | None:
        """None: it has to be waited for. Raises _EndedError."""
        is_over = self._is_over  # before looking: none is added after it was set
        if self._unread:
            return self._unread.popleft()
        if is_over:
            raise _EndedError
        return None


class _EndedError(Exception):
    """Internal: the mesh is closed, and all is read."""


class LineEvents(_Following):
    """An iterator of `LineEvent`, for any one thread but the mesh's own; it waits for the next one, and ends when the
    mesh is closed."""

    def __init__(self) -> None:
        self._wakings = ThreadSignal()
        super().__init__(self._wakings)

    def __iter__(self) -> LineEvents:
        return self

    def __next__(self) -> LineEvent:
        while True:
            try:
                event = self._next()
            except _EndedError:
                raise StopIteration from None
            if event is not None:
                return event
            self._wakings.wait()


class AsyncLineEvents(_Following):
    """The same as an async iterator, for the event loop of its `AsyncMesh`."""

    def __init__(self) -> None:
        self._wakings = asyncio.Event()
        super().__init__(self._wakings)

    def __aiter__(self) -> AsyncLineEvents:
        return self

    async def __anext__(self) -> LineEvent:
        while True:
            self._wakings.clear()
            try:
                event = self._next()
            except _EndedError:
                raise StopAsyncIteration from None
            if event is not None:
                return event
            await self._wakings.wait()


Following = TypeVar("Following", LineEvents, AsyncLineEvents)


class EventFeed:
    """Of one mesh; called with each event. On its loop."""

    def __init__(self, on_event: OnLineEvent) -> None:
        self._on_event = on_event
        # Who follows no longer has dropped what they read from.
        self._followers: weakref.WeakSet[_Following] = weakref.WeakSet()
        self._is_over = False

    def __call__(self, event: LineEvent) -> None:
        for each in tuple(self._followers):
            each.push(event)
        self._on_event(event)

    def follow(self, following: Following) -> Following:
        """From now on it gets all events.

        Raises:
            ClosedError: The mesh is closed.
        """
        if self._is_over:
            raise ClosedError
        self._followers.add(following)
        return following

    def close(self) -> None:
        """There are no more. Safe to repeat."""
        self._is_over = True
        for each in tuple(self._followers):
            each.end()
