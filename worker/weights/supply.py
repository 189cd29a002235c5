# SPDX-License-Identifier: MIT
"""Where this worker's loads get their weights: decides whether a file is taken as it is, or tensors are checked and
fetched. Called on the loading thread.
"""

import contextlib
import socket
from collections.abc import Iterator
from functools import partial

from native import ModelLayout
from native.partial_file import can_be_streamed
from native.placement import tensors_elsewhere
from protos.caravan.v1 import weights_pb2
from protos.channels import Channels
from protos.weights import greet
from worker.loading import Reporter
from worker.model_files import ModelFiles
from worker.session import LoadOrder
from worker.weights.copies import Copies
from worker.weights.fetch import Fetch
from worker.weights.internet import Internet
from worker.weights.offers import Offers
from worker.weights.port import WeightsPort
from worker.weights.sources import Peer, WeightSources

_CONNECT_S = 5.0
_GREETING_S = 10.0

_NO_SOURCES = WeightSources()


class Supply:
    """Shared by all loads of a worker, one after the other."""

    def __init__(self, models: ModelFiles, offers: Offers, port: WeightsPort, internet: Internet) -> None:
        self._models = models
        self._offers = offers
        self._port = port
        self._internet = internet

    def is_stored(self, layout: ModelLayout) -> bool:
        """Whether `layout`, as ModelFiles found it, is the store's. Raises StoreUnusableError."""
        stored = self._models.store.find(layout.identity)
        return stored is not None and stored.layout.path == layout.path

    def stamps(self, identity: str) -> tuple[str, ...]:
        """Of the coordinator's files, as they were offered."""
        return tuple(part.stamp for part in self._offers.parts(identity))

    def copies(self, order: LoadOrder, layout: ModelLayout) -> Copies | None:
        """What is here of a load's model, `layout` as ModelFiles found it; None: its file is taken as it is.

        That is the coordinator's very file, or one for which there is nobody to ask for hashes.

        Raises:
            StoreUnusableError: the store cannot be looked at.
            OSError: the file cannot be opened any more.
        """
        if self.is_stored(layout):
            return Copies(layout, self._models.store, None)
        if order.sources is None or not order.sources.coordinator_gives:
            return None
        file = self._models.files.open(layout, self._offers.parts(layout.identity))
        if file.is_original:
            file.close()
            return None
        return Copies(layout, self._models.store, file)

    @contextlib.contextmanager
    def fetch(self, order: LoadOrder, copies: Copies, reporter: Reporter) -> Iterator[Fetch]:
        """While this lasts, the load's tensors come, in the order of the file.

        What llama.cpp leaves out as a rule, blocks behind the last layer, comes only if it asks for it.
        """
        layout, layers = copies.layout, order.spec.layers
        elsewhere = tensors_elsewhere(layout, layers)
        needed = [
            number
            for number, tensor in enumerate(layout.tensors)
            if tensor.n_bytes and tensor not in elsewhere and (tensor.layer is None or tensor.layer < layout.n_layer)
        ]
        needed.sort(key=lambda number: (layout.tensors[number].file_index, layout.tensors[number].offset_bytes))
        connect = partial(_connect, self._port.channels, layout.identity)
        sources = order.sources or _NO_SOURCES
        may_read = len(sources.addresses) == len(layout.files) and self._internet.may_try(sources.addresses)
        fetch = Fetch(
            copies,
            sources,
            connect,
            reporter,
            in_one_file=not can_be_streamed(layout),
            internet=self._internet if may_read else None,
        )
        try:
            with self._port.expect(order.session_id, order.epoch, layout.identity, fetch.take):
                fetch.start(needed)
                reporter.follow(fetch.progress)
                reporter.call_on_cancel(fetch.cancel)
                yield fetch
        finally:
            reporter.follow(None)
            reporter.call_on_cancel(None)
            fetch.close()


def _connect(channels: Channels, identity: str, peer: Peer) -> socket.socket:
    """A connection to a peer that is welcome there. Raises ChannelError, OSError."""
    connection = socket.create_connection((peer.host, peer.port), timeout=_CONNECT_S)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_GREETING_S)
        connection = channels.connected(connection)
        greet(connection, weights_pb2.WeightsHello(role=weights_pb2.WEIGHTS_ROLE_ASKER, identity=identity))
    except BaseException:
        connection.close()
        raise
    return connection
