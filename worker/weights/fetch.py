# SPDX-License-Identifier: MIT
"""One load's weights on their way: native asks for tensors (as native.Weights), threads check and fetch them.

A thread for each connection, for each of a few checks at a time, and one that looks up from time to time. All of them
decide by the schedule, under one lock; none holds it while it blocks.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from native import LoadCancelledError, TensorLayout
from protos.caravan.v1 import weights_pb2
from protos.weights import is_held
from worker.errors import NoSourceError, WrongBytesError
from worker.weights.address import Address
from worker.weights.asker import FetchOverError
from worker.weights.claim import NO_STAMP
from worker.weights.connections import Connections
from worker.weights.copies import Copies
from worker.weights.internet import Internet
from worker.weights.model_server import ModelServer
from worker.weights.progress import FetchProgress, Tally
from worker.weights.schedule import Schedule
from worker.weights.sources import COORDINATOR, INTERNET, Origin, Peer, Source, WeightSources
from worker.weights.steps import Ask, AskPiece, Check, Open, Wanted
from worker.weights.throttle import Throttle
from worker.weights.writer import TensorWriter

_LOG = logging.getLogger(__name__)

# One is for hashes (schedule.py); more of the others would not make a link faster.
N_COORDINATOR_CONNECTIONS = 5
_N_PEER_CONNECTIONS = 2
_N_CHECKERS = 2
# For a coordinator to connect, after it was told to.
_CONNECT_S = 30.0
_LOOK_UP_S = 0.1
_PIECE_BYTES = 4 << 20
# Under a limit a piece is what may come in this time, so that nothing waits for long, but at least so large.
_LIMITED_PIECE_S = 0.25
_LEAST_PIECE_BYTES = 64 << 10


class Listener(Protocol):
    """Who is told how it goes. Called on the fetch's threads, which it must not keep."""

    def needs_coordinator(self, n_connections: int) -> None:
        """The coordinator is to connect so many times; told once at most."""

    def fetched(self, progress: FetchProgress) -> None:
        """How far it is; told when something changed."""


_Result = TypeVar("_Result")

# Makes a connection to a peer that is welcome there; raises ChannelError, OSError.
Connect = Callable[[Peer], socket.socket]


class Fetch:
    """Begins with `start`; `close` ends it, and leaves what came in the store."""

    def __init__(
        self,
        copies: Copies,
        sources: WeightSources,
        connect: Connect,
        listener: Listener,
        *,
        in_one_file: bool = False,
        internet: Internet | None = None,
    ) -> None:
        """`copies` are entered while this lives; `in_one_file`: all tensors are needed in the same file; `internet`:
        None where the addresses of `sources` are not to be used."""
        self._copies = copies
        self._tensors = copies.layout.tensors
        self._numbers = {tensor: number for number, tensor in enumerate(self._tensors)}
        self._sources = sources
        self._connect = connect
        self._listener = listener
        self._in_one_file = in_one_file
        self._lock = threading.Lock()
        self._work_came = threading.Condition(self._lock)
        self._arrived = threading.Condition(self._lock)
        piece_bytes = _PIECE_BYTES
        if sources.max_bytes_per_s:
            limited_bytes = int(sources.max_bytes_per_s * _LIMITED_PIECE_S)
            piece_bytes = min(max(limited_bytes, _LEAST_PIECE_BYTES), _PIECE_BYTES)
        self._server = ModelServer(sources.addresses, internet)
        self._schedule = Schedule(
            coordinator_gives=sources.coordinator_gives,
            piece_bytes=piece_bytes,
            has_internet=self._server.internet is not None,
        )
        self._throttle = Throttle(sources.max_bytes_per_s, time.monotonic())
        self._tally = Tally()
        self._where: dict[int, Origin] = {}
        self._hashes: dict[int, bytes] = dict(sources.hashes)
        self._writers: dict[int, TensorWriter] = {}
        self._connections = Connections(self)
        self._threads: list[threading.Thread] = []
        self._coordinator_until: float | None = None
        self._n_taken = 0
        self._over = threading.Event()
        self._error: Exception | None = None

    def start(self, wanted: Iterable[int]) -> None:
        """Begins to fetch these, in the order in which they had best come."""
        with self._lock:
            for tensor in wanted:
                self._want(tensor)
            for peer in self._sources.peers * _N_PEER_CONNECTIONS:
                self._add(Source(Origin.PEER, peer.worker), partial(self._connect, peer))
            self._add_web(1)
            self._changed()
        for work in (*[self._check_copies] * _N_CHECKERS, self._look_up):
            thread = threading.Thread(target=self._run, args=(work,), name="fetch", daemon=True)
            self._threads.append(thread)
            thread.start()

    def take(self, connection: socket.socket) -> bool:
        """A coordinator that gives; False: it comes too late."""
        with self._lock:
            if self._over.is_set():
                return False
            self._n_taken += 1
            self._add(COORDINATOR, connection)
            return True

    def cancel(self) -> None:
        """Whoever waits for a tensor gets LoadCancelledError; returns at once."""
        self._fail(LoadCancelledError("the load was cancelled"))

    def close(self) -> None:
        """Ends all of it. Blocks while threads leave what they are at; what is half here stays for the next."""
        self.cancel()
        self._connections.join()
        for thread in self._threads:
            thread.join()
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def descriptor(self, tensor: TensorLayout) -> int:
        """As native.Weights. Raises NoSourceError, LoadCancelledError, and what the store does."""
        number = self._numbers[tensor]
        return self._copies.piece(number, self._wait_for(number)).fd

    def path(self, tensors: Collection[TensorLayout]) -> Path:
        """As native.Weights; raises as `descriptor`."""
        numbers = [self._numbers[tensor] for tensor in tensors if tensor.n_bytes]
        places = {number: self._wait_for(number) for number in numbers}
        if set(places.values()) == {Origin.FILE}:
            return self._copies.path(Origin.FILE)
        for number in (number for number, place in places.items() if place is Origin.FILE):
            with self._lock:
                del self._where[number]
                self._want(number, again=True)
                self._changed()
        for number in numbers:
            self._wait_for(number)
        return self._copies.path(Origin.STORE)

    def progress(self) -> FetchProgress:
        """How far it is."""
        with self._lock:
            return self._tally.progress()

    # What askers call.

    def next(self, number: int, *, may_wait: bool) -> Ask | None:
        """As Work."""
        while True:
            step = self._next_step(number, may_wait=may_wait)
            if not isinstance(step, Open):
                return step
            self._open(step.tensor)

    def piece_came(self, number: int, tensor: int, offset: int, view: memoryview) -> None:
        """As Work."""
        with self._lock:
            if not self._schedule.is_connected(number):
                raise FetchOverError
            source = self._schedule.source_of(number)
            stamp = self._address(tensor).stamp if source == INTERNET else NO_STAMP
        self._guarded(lambda: self._writers[tensor].write(offset, view, stamp))
        with self._lock:
            if source == INTERNET:
                self._add_web(self._server.answered())
            self._tally.fetched(source, len(view))
            is_ready = self._schedule.came(number, len(view))
            if self._schedule.is_complete(tensor):
                # Its hash is due.
                self._work_came.notify_all()
        if is_ready:
            self._guarded(lambda: self._finish(tensor))

    def hash_came(self, number: int, tensor: int, hash: bytes) -> None:
        """As Work."""
        with self._lock:
            self._hashes[tensor] = hash
            is_ready = self._schedule.hash_came(number)
            self._work_came.notify_all()
        if is_ready:
            self._guarded(lambda: self._finish(tensor))

    def address_of(self, tensor: int) -> tuple[Address, int]:
        """As WebWork."""
        with self._lock:
            return self._address(tensor), self._tensors[tensor].offset_bytes

    def expired(self, number: int, address: Address, reason: str) -> None:
        """As WebWork."""
        with self._lock:
            asked = self._schedule.asked_of(number)
            self._schedule.expired(number, reason, is_old=address is not self._address(asked.tensor))
            self._changed()

    def address_came(self, number: int, tensor: int, address: weights_pb2.WeightAddress) -> None:
        """As Work."""
        try:
            new = Address.parse(address)
        except ValueError as error:
            self.refused(number, f"the coordinator: {error}")
            return
        with self._lock:
            self._server.renew(self._tensors[tensor].file_index, new)
            self._schedule.address_came(number)
            self._changed()

    def refused(self, number: int, reason: str) -> None:
        """As Work."""
        with self._lock:
            self._schedule.refused(number, reason)
            self._changed()

    def gone(self, number: int, reason: str) -> None:
        """As Work."""
        with self._lock:
            source = self._connections.remove(number)
            if reason and source != INTERNET:
                _LOG.info("%s", reason)
            self._schedule.gone(number)
            if self._connections.n_to(source) == 0 and not (source == COORDINATOR and self._may_connect()):
                self._schedule.drop(source, reason or f"{source} hung up")
            self._changed()

    def _want(self, tensor: int, *, again: bool = False) -> None:
        """Sees to it that the tensor comes, if it does not already."""
        self._copies.need(tensor)
        place = None if again else self._copies.sure(tensor)
        n_bytes = self._tensors[tensor].n_bytes
        if place is not None:
            if tensor not in self._where:
                self._where[tensor] = place
                self._tally.needed(n_bytes)
                self._tally.found(Source(place), n_bytes)
        elif tensor not in self._schedule or again:
            hash = self._hashes.get(tensor) or self._copies.hash_of(tensor)
            if hash is not None:
                self._hashes[tensor] = hash
            copies = () if again else self._copies.unsure(tensor, in_one_file=self._in_one_file)
            peers = tuple(peer.worker for peer in self._sources.peers if is_held(peer.held_bits, tensor))
            self._tally.needed(0 if again else n_bytes)
            part = self._tensors[tensor].file_index
            self._schedule.want(Wanted(tensor, n_bytes, copies, peers, is_hash_known=hash is not None, part=part))
            if not copies:
                self._tally.to_fetch(n_bytes)

    def _wait_for(self, tensor: int) -> Origin:
        with self._lock:
            self._want(tensor)
            if tensor not in self._where:
                self._schedule.demand(tensor)
                self._changed()
            self._arrived.wait_for(lambda: tensor in self._where or self._error is not None)
            if self._error is not None:
                raise self._error
            return self._where[tensor]

    def _next_step(self, number: int, *, may_wait: bool) -> Open | Ask | None:
        with self._lock:
            while True:
                if self._over.is_set() or not self._schedule.is_connected(number):
                    raise FetchOverError
                pause_s = self._throttle.wait_s(time.monotonic())
                step = self._schedule.next(number) if pause_s == 0 else None
                if isinstance(step, AskPiece):
                    self._throttle.take(step.n_bytes)
                    if self._schedule.source_of(number) == INTERNET:
                        self._server.asked(time.monotonic())
                if step is not None or not may_wait:
                    return step
                self._work_came.wait(pause_s or None)

    def _open(self, tensor: int) -> None:
        """Begins to write a tensor; another process may be at it."""
        writer = self._guarded(lambda: self._copies.begin(tensor))
        if writer is None:
            is_here = self._copies.is_held(tensor)
            with self._lock:
                if is_here:
                    n_bytes = self._tensors[tensor].n_bytes
                    self._tally.to_fetch(-n_bytes)
                    self._tally.found(Source(Origin.STORE), n_bytes)
                    self._arrive(tensor, Origin.STORE)
                else:
                    self._schedule.await_other(tensor)
            return
        self._writers[tensor] = writer
        with self._lock:
            is_sure = self._schedule.goes_without_hash(tensor)
            stamp = self._address(tensor).stamp if is_sure else NO_STAMP
        if is_sure and not writer.is_only_of(stamp):
            # Who gave what is here may have lied, and nobody would see it.
            self._guarded(writer.forget)
        missing = writer.missing()
        here_bytes = writer.n_bytes - sum(end - start for start, end in missing)
        with self._lock:
            self._tally.to_fetch(-here_bytes)
            self._tally.found(Source(Origin.STORE), here_bytes)
            is_ready = self._schedule.opened(tensor, missing, is_sure=is_sure)
            self._changed()
        if is_ready:
            self._guarded(lambda: self._finish(tensor))

    def _finish(self, tensor: int) -> None:
        writer = self._writers[tensor]
        try:
            writer.finish(self._hashes.get(tensor))
        except WrongBytesError as error:
            _LOG.warning("%s; it is fetched again", error)
            with self._lock:
                self._tally.to_fetch(writer.n_bytes)
                self._schedule.wrong(tensor)
                self._changed()
            return
        del self._writers[tensor]
        writer.close()
        with self._lock:
            self._arrive(tensor, Origin.STORE)

    def _arrive(self, tensor: int, place: Origin) -> None:
        self._schedule.right(tensor)
        self._where[tensor] = place
        self._arrived.notify_all()

    def _check_copies(self) -> None:
        while True:
            with self._lock:
                check = self._next_check()
            is_right = self._copies.check(check.tensor, check.copy, self._hashes[check.tensor])
            n_bytes = self._tensors[check.tensor].n_bytes
            with self._lock:
                if is_right:
                    self._tally.found(Source(check.copy), n_bytes)
                    self._arrive(check.tensor, check.copy)
                elif not self._schedule.wrong_copy(check.tensor):
                    self._tally.to_fetch(n_bytes)
                self._changed()

    def _next_check(self) -> Check:
        while not self._over.is_set():
            check = self._schedule.next_check()
            if check is not None:
                return check
            self._work_came.wait()
        raise FetchOverError

    def _look_up(self) -> None:
        """What nobody else would notice."""
        before = None
        while not self._over.wait(_LOOK_UP_S):
            with self._lock:
                self._connections.hang_up_overdue()
                awaited = self._schedule.awaited()
                is_late = self._connections.n_to(COORDINATOR) == 0 and not self._may_connect()
                if is_late and self._schedule.needs_coordinator():
                    self._schedule.drop(COORDINATOR, "the coordinator does not connect to this worker's weights port")
                    self._changed()
                if self._server.is_late(time.monotonic()):
                    for number in self._connections.hang_up(INTERNET):
                        self._schedule.gone(number)
                    self._schedule.drop(INTERNET, f"{self._server.shown} cannot be reached")
                    self._changed()
                progress = self._tally.progress()
            for tensor in awaited:
                self._open(tensor)
            if progress != before:
                self._listener.fetched(progress)
            before = progress

    def _changed(self) -> None:
        """After anything but progress: what follows from it."""
        no_server = self._schedule.why_dropped(INTERNET)
        if no_server is not None and not self._over.is_set():
            self._server.do_without(no_server)
        lost = self._schedule.lost()
        if lost is not None and self._error is None:
            number, reasons = lost
            self._set_error(
                NoSourceError(
                    f"nobody gives tensor {self._tensors[number].name} of {self._copies.layout.name} as it should be:"
                    f" {'; '.join(reasons)}"
                )
            )
        if self._coordinator_until is None and self._schedule.needs_coordinator():
            self._coordinator_until = time.monotonic() + _CONNECT_S
            self._listener.needs_coordinator(N_COORDINATOR_CONNECTIONS)
        self._work_came.notify_all()

    def _may_connect(self) -> bool:
        """Whether the coordinator may still come, or come again."""
        until = self._coordinator_until
        return until is not None and time.monotonic() < until and self._n_taken < N_COORDINATOR_CONNECTIONS

    def _add(self, source: Source, connection: socket.socket | Callable[[], socket.socket]) -> None:
        self._schedule.connect(self._connections.add(source, connection), source)

    def _add_web(self, n_connections: int) -> None:
        """So many more to the model's own server."""
        internet = self._server.internet
        if internet is not None:
            for _ in range(n_connections):
                self._schedule.connect(self._connections.add_web(internet), INTERNET)

    def _address(self, tensor: int) -> Address:
        """Where its part is read by now."""
        return self._server.address(self._tensors[tensor].file_index)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            if self._error is None:
                self._set_error(error)

    def _set_error(self, error: Exception) -> None:
        self._error = error
        self._over.set()
        self._connections.hang_up()
        self._work_came.notify_all()
        self._arrived.notify_all()

    def _guarded(self, act: Callable[[], _Result]) -> _Result:
        """What `act` gives; what it raises ends the fetch, and this raises FetchOverError."""
        try:
            return act()
        except FetchOverError:
            raise
        except Exception as error:
            self._fail(error)
            raise FetchOverError from error

    def _run(self, work: Callable[[], None]) -> None:
        """A thread's."""
        try:
            self._guarded(work)
        except FetchOverError:
            return
