# SPDX-License-Identifier: MIT
"""A bounded queue between two threads that either side can end: how frames and results change threads.

One thread puts, one thread gets. queue.SimpleQueue carries the items because its wake-up is the cheapest Python
has (a decode step pays for two of them); the bound is a semaphore that only the putting side ever waits for.
"""

import queue
import threading
from collections.abc import Iterator
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")


class _Sign(Enum):
    END = "end"


class Handover(Generic[T]):
    """`put` and `finish` belong to the giving thread, iteration to the taking one, `close` to anybody."""

    def __init__(self, capacity: int) -> None:
        """At most `capacity` items (>= 1) wait; the next `put` blocks."""
        self._items: queue.SimpleQueue[T | _Sign] = queue.SimpleQueue()
        self._free = threading.Semaphore(capacity)
        self._capacity = capacity
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called: what is put is dropped."""
        return self._closed

    @property
    def n_waiting(self) -> int:
        """Items put and not yet taken, roughly (the other thread moves on)."""
        return self._items.qsize()

    def put(self, item: T) -> bool:
        """Hands over one item, waiting while the queue is full; False: closed, the item was dropped."""
        self._free.acquire()
        if self._closed:
            self._free.release()
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
        # One blocked giver at most; it releases again what it gets.
        self._free.release()

    def __iter__(self) -> Iterator[T]:
        """The items in order, each with a place freed when it is taken; ends after `finish` or at `close`."""
        while True:
            item = self._items.get()
            if self._closed or item is _Sign.END:
                return
            self._free.release()
            yield item
