# SPDX-License-Identifier: MIT
"""A model's weights on their way to the stages of a line: what each load is told of sources, and the giving to those
that need the coordinator. Used while stages load, on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from coordinator.errors import SourceError, WeightsError
from coordinator.orders import Peer, StageSources
from coordinator.weights.giving import Giving, Receiver
from coordinator.weights.hashes import TensorHashes
from coordinator.weights.source import WeightSource
from coordinator.workers import FoundWorker
from native import LayerRange, ModelLayout
from protos.caravan.v1 import weights_pb2
from protos.channels import Channels
from protos.weights import is_held

T = TypeVar("T")


class Delivery:
    """Of one source, for as long as its mesh is open.

    Args:
        max_bytes_per_s: How fast each worker may fetch, from all sources together; None: no limit.
    """

    def __init__(self, source: WeightSource, max_bytes_per_s: int | None, channels: Channels) -> None:
        self.source = source
        self.channels = channels
        self._max_bytes_per_s = max_bytes_per_s
        self._hashes: TensorHashes | None = None

    @property
    def hashes(self) -> TensorHashes:
        """Of the source's tensors."""
        if self._hashes is None:
            self._hashes = TensorHashes(self.source)
        return self._hashes

    def sources(self, worker: FoundWorker, layers: LayerRange, others: Sequence[FoundWorker]) -> StageSources:
        """What the load of these layers on that worker is told."""
        needed = tensors_of(self.source.layout, layers)
        peers = [
            Peer(other.name, f"{other.address.rpartition(':')[0]}:{other.weights_port}", other.held_tensors)
            for other in others
            if other.name != worker.name
            and other.weights_port
            and any(is_held(other.held_tensors, tensor) for tensor in needed)
        ]
        addresses = self.source.addresses() if worker.weights_port else ()
        # What a worker reads itself is not hashed here, and what is not hashed here its peers may not give.
        hashes = self.hashes.known(needed) if addresses else {}
        return StageSources(tuple(peers), bool(worker.weights_port), self._max_bytes_per_s or 0, addresses, hashes)

    def to(self, worker: FoundWorker, session_id: str, epoch: int) -> StageDelivery:
        """For the load of a stage there; a context manager around it."""
        return StageDelivery(self, worker, session_id, epoch)


class StageDelivery:
    """To one worker, for one load."""

    def __init__(self, delivery: Delivery, worker: FoundWorker, session_id: str, epoch: int) -> None:
        self._delivery = delivery
        self._worker = worker
        self._hello = weights_pb2.WeightsHello(
            role=weights_pb2.WEIGHTS_ROLE_GIVER,
            identity=delivery.source.layout.identity,
            session_id=session_id,
            epoch=epoch,
        )
        self._giving: Giving | None = None
        self._loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[WeightsError] = self._loop.create_future()

    def give(self, n_connections: int) -> None:
        """The worker needs the coordinator, over so many connections."""
        if self._giving is None:
            host = self._worker.address.rpartition(":")[0].strip("[]")
            receiver = Receiver(self._worker.name, host, self._worker.weights_port, self._delivery.channels)
            source = self._delivery.source
            self._giving = Giving(source, self._delivery.hashes, receiver, self._hello, self._note_lost)
        self._giving.connect(n_connections)

    async def during(self, load: Awaitable[T]) -> T:
        """What the load gives.

        Raises:
            SourceError: Why it failed, if that was the source here.
            WeightsError: The worker cannot be given weights; the load is cancelled.
        """
        loading = asyncio.ensure_future(load)
        try:
            either: set[asyncio.Future[Any]] = {loading, self._lost}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not loading.done():
                raise self._lost.result()
            return loading.result()
        except WeightsError as error:
            reason = self._giving.error if self._giving is not None else None
            if reason is None:
                raise
            raise SourceError(f"{self._worker.name}: {reason}", retry_safe=reason.retry_safe) from error
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)

    async def __aenter__(self) -> StageDelivery:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._giving is not None:
            await self._giving.close()

    def _note_lost(self, error: WeightsError) -> None:
        """On a thread of the giving."""

        def settle() -> None:
            if not self._lost.done():
                self._lost.set_result(error)

        self._loop.call_soon_threadsafe(settle)


def tensors_of(layout: ModelLayout, layers: LayerRange) -> list[int]:
    """The numbers of the tensors that a stage of these layers may need: its own, those of blocks behind the last layer
    with the last stage, and those of no layer."""
    end = layout.n_block if layers.end == layout.n_layer else layers.end
    return [
        number
        for number, tensor in enumerate(layout.tensors)
        if tensor.layer is None or layers.start <= tensor.layer < end
    ]
