# SPDX-License-Identifier: MIT
"""A bounded queue between two threads that either side can end: how frames and results change threads.

Few put, one thread gets. The items wait in a queue.SimpleQueue and so do the free places: it is written in
C, and a decode step, whose caches llama.cpp has just filled with weights, pays ten times for what is not.
"""

import queue
from collections.abc import Iterator
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")


class _Sign(Enum):
    END = "end"


class Handover(Generic[T]):
    """`put` and `finish` belong to the giving threads, iteration to the taking one, `close` to anybody."""

    def __init__(self, capacity: int) -> None:
        """At most `capacity` items (>= 1) wait; the next `put` blocks."""
        self._items: queue.SimpleQueue[T | _Sign] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(capacity):
            self._places.put(None)
        self._closed = False

    @property
    def n_waiting(self) -> int:
        """Items put and not yet taken, roughly (the other thread moves on)."""
        return self._items.qsize()

    def put(self, item: T) -> bool:
        """Hands over one item, waiting while the queue is full; False: closed, the item was dropped."""
        self._places.get()
        if self._closed:
            self._places.put(None)
            return False
        self._items.put(item)
        return True

    def finish(self) -> None:
        """Nothing more will be put: iteration ends after what is waiting."""
        self._items.put(_Sign.END)

    def close(self) -> None:
        """Ends it now: what waits is dropped, both sides wake up. Safe to repeat."""
        self._closed = True
        self._items.put(_Sign.END)
        # A blocked giver releases again what it gets, for the next one.
        self._places.put(None)

    def __iter__(self) -> Iterator[T]:
        """The items in order, each with a place freed when it is taken; ends after `finish` or at `close`."""
        while True:
            item = self._items.get()
            if self._closed or item is _Sign.END:
                return
            self._places.put(None)
            yield item
