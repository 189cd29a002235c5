# SPDX-License-Identifier: MIT
"""A worker as the contract has it, with no llama.cpp and no disk behind it: it takes offers, and its loads fetch whole
tensors from whoever gives. What it was told is kept for the test.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc
import grpc.aio

from native import ModelLayout
from protos.caravan.v1 import control_pb2, control_pb2_grpc, error_pb2
from protos.contract import channel_options
from protos.failures import detail_to_metadata, status_of
from protos.weights import ChannelClosedError, held_bits
from tests.coordinator.weights.asker import Asker, Port, open_port

_PIECE_BYTES = 1 << 20
_TIMEOUT_S = 10.0


@dataclass
class ContractWorker:
    """Its answers are set by the test, before or while it runs.

    Attributes:
        layout: Of the model that it knows without being told.
        held: Tensors that it says it has.
        has_header: Whether it says that it knows the model.
        n_connections: That it asks the coordinator for.
        during: Called in the middle of a load, before the last tensor.
        failure: What its next load fails with, after it has fetched.
        is_deaf: Whether nobody can connect to its weights port.
    """

    name: str
    layout: ModelLayout
    port: Port
    held: set[int] = field(default_factory=set)
    has_header: bool = False
    n_connections: int = 2
    during: Callable[[], object] = lambda: None
    failure: error_pb2.ErrorDetail | None = None
    address: str = ""
    offers: list[control_pb2.OfferRequest] = field(default_factory=list)
    header: dict[int, bytes] = field(default_factory=dict)
    put_error: error_pb2.ErrorDetail | None = None
    loads: list[control_pb2.LoadRequest] = field(default_factory=list)
    fetched: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    errors: list[error_pb2.ErrorDetail] = field(default_factory=list)
    is_deaf: bool = False
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_cancelled(self) -> None:
        """Returns when a load of it was called off."""
        await asyncio.wait_for(self.cancelled.wait(), _TIMEOUT_S)


class _Servicer(control_pb2_grpc.ControlServiceServicer):
    def __init__(self, worker: ContractWorker) -> None:
        self._worker = worker

    async def Offer(
        self, request: control_pb2.OfferRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> control_pb2.OfferResponse:
        worker = self._worker
        worker.offers.append(request)
        held = [number in worker.held for number in range(len(worker.layout.tensors))]
        return control_pb2.OfferResponse(has_header=worker.has_header, held_tensors=held_bits(held))

    async def PutHeader(
        self,
        request_iterator: AsyncIterator[control_pb2.PutHeaderRequest],
        context: grpc.aio.ServicerContext[object, object],
    ) -> control_pb2.PutHeaderResponse:
        worker = self._worker
        if worker.put_error is not None:
            await _fail(context, worker.put_error)
        n_messages = 0
        async for request in request_iterator:
            assert (request.identity == worker.layout.identity) is (n_messages == 0)
            worker.header[request.part] = worker.header.get(request.part, b"") + request.chunk
            n_messages += 1
        return control_pb2.PutHeaderResponse()

    async def Load(
        self, request: control_pb2.LoadRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[control_pb2.LoadResponse]:
        worker = self._worker
        worker.loads.append(request)
        tensors = worker.layout.tensors
        needed = [number for number in range(len(tensors)) if number not in worker.held]
        total, done = sum(tensors[number].n_bytes for number in needed), 0
        try:
            yield _progress(total, 0)
            if needed and worker.n_connections:
                if worker.is_deaf:
                    worker.port.close()
                needs = control_pb2.NeedsCoordinator(n_connections=worker.n_connections)
                yield control_pb2.LoadResponse(needs_coordinator=needs)
                if worker.is_deaf:
                    await asyncio.sleep(_TIMEOUT_S)
                askers = [await asyncio.to_thread(worker.port.accept) for _ in range(worker.n_connections)]
                for number in needed:
                    if number == needed[-1]:
                        await asyncio.to_thread(worker.during)
                    await asyncio.to_thread(self._fetch, askers[number % len(askers)], number)
                    done += tensors[number].n_bytes
                    yield _progress(total, done)
                for asker in askers:
                    asker.connection.close()
            if worker.failure is not None:
                await _fail(context, worker.failure)
            memory = control_pb2.MemoryUse(weights_bytes=total)
            yield control_pb2.LoadResponse(loaded=control_pb2.LoadedStage(memory=memory))
        except (asyncio.CancelledError, GeneratorExit, ChannelClosedError, OSError):
            # The call's end and the connections' come in either order, and while it waits for anything.
            worker.cancelled.set()
            raise

    def _fetch(self, asker: Asker, number: int) -> None:
        n_bytes = self._worker.layout.tensors[number].n_bytes
        data = b""
        for offset in range(0, n_bytes, _PIECE_BYTES):
            piece_bytes = min(_PIECE_BYTES, n_bytes - offset)
            asker.ask_piece(number, offset, piece_bytes)
            answer = asker.answer()
            if answer.WhichOneof("what") == "error":
                self._worker.errors.append(answer.error)
                return
            data += asker.bytes_behind(answer)
        self._worker.fetched[number] = (data, asker.hash(number))


async def _fail(context: grpc.aio.ServicerContext[object, object], detail: error_pb2.ErrorDetail) -> None:
    await context.abort(status_of(detail.code), detail.message, detail_to_metadata(detail))


def _progress(total: int, done: int) -> control_pb2.LoadResponse:
    share = control_pb2.SourceProgress(origin=control_pb2.WEIGHT_ORIGIN_COORDINATOR, n_bytes=done)
    progress = control_pb2.LoadProgress(
        fraction=done / total if total else 1.0, to_fetch_bytes=total, fetched_bytes=done, sources=[share]
    )
    return control_pb2.LoadResponse(progress=progress)


@contextlib.asynccontextmanager
async def contract_worker(name: str, layout: ModelLayout) -> AsyncIterator[ContractWorker]:
    """On loopback."""
    with open_port() as port:
        worker = ContractWorker(name, layout, port)
        server = grpc.aio.server(options=channel_options())
        control_pb2_grpc.add_ControlServiceServicer_to_server(_Servicer(worker), server)  # type: ignore[abstract]
        worker.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield worker
        finally:
            await server.stop(None)
