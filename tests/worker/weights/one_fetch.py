# SPDX-License-Identifier: MIT
"""One fetch after another, with a store, and sources that are threads of the test."""

import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import MappingProxyType

from native import read_layout
from protos.caravan.v1 import weights_pb2
from protos.weights import held_bits
from tests.worker.weights.coordinator import Coordinator
from worker.weights.address import Address
from worker.weights.copies import Copies
from worker.weights.draft import HeaderChunk
from worker.weights.fetch import Fetch
from worker.weights.files import LocalFiles
from worker.weights.giver import give
from worker.weights.internet import Internet
from worker.weights.parts import Part
from worker.weights.piece import Piece
from worker.weights.progress import FetchProgress
from worker.weights.sources import Peer, Source, WeightSources
from worker.weights.store import ModelStore

NO_HASHES: Mapping[int, bytes] = MappingProxyType({})

# A connection's other end, and what is done at it.
Serve = Callable[[socket.socket], None]


class Fetching:
    """A store, sources in this process, and one fetch after another."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.layout = read_layout(model)
        self.content = model.read_bytes()
        self.folder = folder
        self.coordinator = Coordinator(model)
        self.numbers = range(len(self.layout.tensors))
        self.peers: dict[str, Serve] = {}
        self.progress = FetchProgress()
        self.n_called = 0
        self.limit_bytes: int | None = None
        self._stack = ExitStack()
        self._threads: list[threading.Thread] = []
        self._fetch: Fetch | None = None

    def __enter__(self) -> "Fetching":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """The fetch is over; its sources have noticed."""
        self._stack.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        self._threads.clear()

    def open_store(self) -> ModelStore:
        """As another process would."""
        path, n_header = self.layout.path, self.layout.header_bytes[0]
        store = ModelStore(self.folder, self.limit_bytes, "this start")
        self._stack.callback(store.close)
        part = Part(path.name, len(self.content), n_header)
        store.create(self.layout.identity, [part], [HeaderChunk(0, self.content[:n_header])])
        return store

    def start(
        self,
        *,
        local: Path | None = None,
        max_bytes_per_s: int = 0,
        coordinator_gives: bool = True,
        store: ModelStore | None = None,
        addresses: Sequence[Address] = (),
        hashes: Mapping[int, bytes] = NO_HASHES,
        internet: Internet | None = None,
    ) -> Fetch:
        """Begins to fetch everything, after ending what was under way."""
        if store is None:
            self.stop()
            store = self.open_store()
        file = None
        if local is not None:
            file = LocalFiles([], self.folder).open(read_layout(local), [])
        copies = self._stack.enter_context(Copies(self.layout if file is None else file.layout, store, file))
        everything = held_bits([True] * len(self.numbers))
        peers = tuple(Peer(name, name, 1, everything) for name in self.peers)
        sources = WeightSources(peers, coordinator_gives, max_bytes_per_s, tuple(addresses), hashes)
        fetch = self._fetch = Fetch(copies, sources, self._connect, self, internet=internet)
        self._stack.callback(fetch.close)
        fetch.start(self.numbers)
        return fetch

    def bring(self, **more: object) -> None:
        """Fetches everything, and compares it with what it should be."""
        fetch = self.start(**more)  # type: ignore[arg-type]
        self.compare(fetch)

    def compare(self, fetch: Fetch) -> None:
        """Waits for all of it."""
        for tensor in self.layout.tensors:
            data = os.pread(fetch.descriptor(tensor), tensor.n_bytes, tensor.offset_bytes)
            assert data == self.content[tensor.offset_bytes :][: tensor.n_bytes], tensor.name
        self.progress = fetch.progress()

    def from_source(self, source: Source) -> int:
        """Bytes that came from there."""
        return dict(self.progress.by_source).get(source, 0)

    def needs_coordinator(self, n_connections: int) -> None:
        """As Listener; the fetch holds its lock."""
        self.n_called += 1
        for _ in range(n_connections):
            self._thread(self._join_in)

    def fetched(self, progress: FetchProgress) -> None:
        """As Listener."""

    def give(self, spoil: Callable[[weights_pb2.WeightsAsk, bytes], bytes] | None = None) -> Serve:
        """A peer that has everything; with `spoil` it changes what it gives."""
        if spoil is not None:
            return Coordinator(self.layout.path, spoil=spoil).serve

        def serve(connection: socket.socket) -> None:
            with self.layout.path.open("rb") as file:
                tensors = self.layout.tensors
                give(connection, lambda t: Piece(file.fileno(), tensors[t].offset_bytes, tensors[t].n_bytes))

        return serve

    def _join_in(self) -> None:
        ours, theirs = socket.socketpair()
        assert self._fetch is not None
        with theirs:
            if self._fetch.take(ours):
                self.coordinator.serve(theirs)
            else:
                ours.close()

    def _connect(self, peer: Peer) -> socket.socket:
        ours, theirs = socket.socketpair()

        def serve() -> None:
            with theirs:
                self.peers[peer.worker](theirs)

        self._thread(serve)
        return ours

    def _thread(self, work: Callable[[], None]) -> None:
        def run() -> None:
            with suppress(OSError):
                work()

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()
