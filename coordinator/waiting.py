# SPDX-License-Identifier: MIT
"""Who gets the next free slot: the bounded, fair queue of one line's requests. Pure; the scheduler's.

The rules, in this order:

1. Of every eight slots given while several requests wait, the last goes to the request that has waited longest,
   whatever its priority and client. So a low priority moves too: a request that came when n others waited has its slot
   after 8 (n + 1) at the latest.
2. The lowest number in `Request.priority` first (as in vLLM).
3. Among the clients that wait with it: the one with the fewest requests running; among equals the one whose turn was
   longest ago, where a client that was not there before joins at the end of the round. So fifty requests of one client
   keep the first one of another waiting for one turn.
4. A client's requests of one priority in the order in which they came.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict

from coordinator.errors import ClientLimitError, OverloadedError
from coordinator.frames import EmbeddingRequest, Request

AGEING_TURNS = 8
"""Slots, of which one goes by age alone: an eighth of the line is what a low priority costs the others at most."""


class Clients:
    """How many requests each client has, running and waiting, in all lines of a mesh.

    Args:
        limit: So many each at most; None: any number.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._counts: dict[str, int] = {}

    @property
    def n_clients(self) -> int:
        """Those that have any."""
        return len(self._counts)

    def enter(self, client: str) -> None:
        """One more.

        Raises:
            ClientLimitError: It has as many as it may; nothing has changed.
        """
        count = self._counts.get(client, 0)
        if self._limit is not None and count >= self._limit:
            raise ClientLimitError(count)
        self._counts[client] = count + 1

    def leave(self, client: str) -> None:
        """One of its requests has ended."""
        self._counts[client] -= 1
        if not self._counts[client]:
            del self._counts[client]


_Waiting = Request | EmbeddingRequest

_Queue = OrderedDict[int, _Waiting]
"""By request id, in the order in which they came."""


class _Client:
    """One that has requests here. `turn`: ascending, of the slot it got last, or of when it came."""

    __slots__ = ("n_running", "n_waiting", "turn")

    def __init__(self, turn: int) -> None:
        self.n_running = 0
        self.n_waiting = 0
        self.turn = turn


class WaitingRoom:
    """The requests of one line that wait for a slot, and how many each client has running.

    Args:
        n_most: Requests that may wait.
        clients: Of all lines.
    """

    def __init__(self, n_most: int, clients: Clients) -> None:
        self._n_most = n_most
        self._all_clients = clients
        self._clients: dict[str, _Client] = {}
        self._by_age: _Queue = OrderedDict()
        # Priority, then client.
        self._classes: dict[int, dict[str, _Queue]] = defaultdict(lambda: defaultdict(OrderedDict))
        self._n_turns = 0
        self._n_contended = 0

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._by_age)

    def enter(self, request: _Waiting, *, is_slot_free: bool) -> None:
        """A new request waits from now on, if only until the caller takes it out for a free slot.

        Raises:
            OverloadedError: The queue is full.
            ClientLimitError: Its client has as many as it may. In both cases nothing has changed.
        """
        if not is_slot_free and len(self) >= self._n_most:
            raise OverloadedError(len(self))
        self._all_clients.enter(request.client)
        client = self._clients.get(request.client)
        if client is None:
            client = self._clients[request.client] = _Client(self._next_turn())
        client.n_waiting += 1
        self._by_age[request.id] = request
        self._classes[request.priority][request.client][request.id] = request

    def take(self) -> _Waiting:
        """The one that gets the next slot (one waits); it counts as running from now on."""
        request = self._chosen()
        self._remove(request)
        client = self._clients[request.client]
        client.n_running += 1
        client.turn = self._next_turn()
        return request

    def leave(self, request: _Waiting) -> None:
        """A request that waits or runs has ended."""
        client = self._clients[request.client]
        if request.id in self._by_age:
            self._remove(request)
        else:
            client.n_running -= 1
        if not client.n_running and not client.n_waiting:
            del self._clients[request.client]
        self._all_clients.leave(request.client)

    def _chosen(self) -> _Waiting:
        if len(self) > 1:
            self._n_contended += 1
            if self._n_contended % AGEING_TURNS == 0:
                return next(iter(self._by_age.values()))
        queues = self._classes[min(self._classes)]
        name = min(queues, key=lambda name: (self._clients[name].n_running, self._clients[name].turn))
        return next(iter(queues[name].values()))

    def _remove(self, request: _Waiting) -> None:
        del self._by_age[request.id]
        queues = self._classes[request.priority]
        del queues[request.client][request.id]
        if not queues[request.client]:
            del queues[request.client]
            if not queues:
                del self._classes[request.priority]
        self._clients[request.client].n_waiting -= 1

    def _next_turn(self) -> int:
        self._n_turns += 1
        return self._n_turns
