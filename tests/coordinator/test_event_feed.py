# SPDX-License-Identifier: MIT
"""Who follows a mesh's events gets all of them, in order, until the mesh is closed."""

import asyncio
import threading

import pytest

from coordinator import ClosedError, LineChange, LineEvent
from coordinator.event_feed import AsyncLineEvents, EventFeed, LineEvents
from coordinator.events import ignore

_LOST = LineEvent(LineChange.LOST, "it broke", "attic")
_RESUMED = LineEvent(LineChange.RESUMED, "it goes on", "attic", n_streams=2)


def test_a_thread_that_waits_gets_each_event_and_ends_with_the_mesh() -> None:
    told: list[LineEvent] = []
    feed = EventFeed(told.append)
    feed(_LOST)
    events, late = feed.follow(LineEvents()), LineEvents()
    read: list[LineEvent] = []
    thread = threading.Thread(target=lambda: read.extend(events))
    thread.start()
    feed(_RESUMED)
    feed.follow(late)
    feed(_LOST)
    feed.close()
    thread.join(10)
    assert read == [_RESUMED, _LOST]
    assert list(late) == [_LOST]
    assert told == [_LOST, _RESUMED, _LOST]
    with pytest.raises(ClosedError):
        feed.follow(LineEvents())


async def test_a_task_that_waits_gets_each_event_and_ends_with_the_mesh() -> None:
    feed = EventFeed(ignore)
    events = feed.follow(AsyncLineEvents())

    async def read() -> list[LineEvent]:
        return [event async for event in events]

    reading = asyncio.ensure_future(read())
    for event in (_LOST, _RESUMED):
        await asyncio.sleep(0)
        feed(event)
    feed.close()
    assert await reading == [_LOST, _RESUMED]


def test_what_nobody_reads_is_bounded_and_the_latest_stays() -> None:
    feed = EventFeed(ignore)
    events = feed.follow(LineEvents())
    for _ in range(2000):
        feed(_LOST)
    feed(_RESUMED)
    feed.close()
    read = list(events)
    assert len(read) == 1000
    assert read[-1] == _RESUMED
