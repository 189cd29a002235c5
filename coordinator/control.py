# SPDX-License-Identifier: MIT
"""Control calls to one worker: who it is, what would fit, how fast it and its links are, load, unload, health. A thin
gRPC client: values go out and come back by `control_messages`, failures become our errors, and it decides nothing. Used
on the event loop by `discovery`, `confirming`, `loading` and `session`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import grpc
import grpc.aio

from coordinator.control_messages import (
    benchmarked_run_of,
    context_message,
    found_worker_of,
    load_report_of,
    memory_of,
    sources_message,
    stage_message,
)
from coordinator.errors import CaravanError, EngineError
from coordinator.fitting import DryRunReport
from coordinator.orders import BenchmarkOrder, OtherStage, StageOrder, StageSources
from coordinator.statuses import Callee, error_of_call
from coordinator.weights.progress import LoadReport
from coordinator.weights.source import SourcePart
from coordinator.workers import Benchmarked, FoundWorker, Health, Link, OfferAnswer, StageMemory
from native import LayerRange
from protos.caravan.v1 import control_pb2, control_pb2_grpc
from protos.channels import Channels
from protos.contract import channel_options

DESCRIBE_TIMEOUT_S = 3.0
"""A worker on the LAN answers in milliseconds; a machine that sleeps or a wrong address never does."""

_DRY_RUN_TIMEOUT_S = 60.0
"""0.05 s of work, behind a header that may have to come from a slow disk, on a machine that may be busy."""

_OFFER_TIMEOUT_S = 120.0
"""A worker looks through its model folders, which may be on a slow drive."""

_PUT_HEADER_TIMEOUT_S = 300.0
"""Ten megabytes over a slow link, behind others'."""

_ECHO_TIMEOUT_S = 20.0
"""The largest message over 10 Mbit/s, there and back."""

_MEASURE_LINK_TIMEOUT_S = 60.0
"""A few of those, and a connection to be made."""

_UNLOAD_TIMEOUT_S = 5.0
"""Freeing memory; waits for the frame being computed."""

_RETIREMENT_S = 3600.0
"""For calls over a channel whose certificate has been renewed: a load may take long."""


class WorkerClient:
    """The control side of one worker. Every call raises the errors of `statuses`; close it when done."""

    def __init__(self, address: str, channels: Channels, name: str = "", *, is_draft: bool = False) -> None:
        """`is_draft`: what is loaded, and asked after, is a draft model that it holds beside the stage of a line."""
        self.channels = channels
        self._is_draft = is_draft
        self._callee = Callee(name or address, address)
        self._mark: object = channels.mark
        self._channel = channels.aio_channel(address, channel_options())
        self._retired: set[asyncio.Task[None]] = set()

    @property
    def callee(self) -> Callee:
        """Whom this talks to."""
        return self._callee

    @property
    def _stub(self) -> control_pb2_grpc.ControlServiceAsyncStub:
        """For the next call: over a channel that is not older than our certificate."""
        mark = self.channels.mark
        if mark != self._mark:
            retiring = asyncio.get_running_loop().create_task(self._channel.close(_RETIREMENT_S))
            self._retired.add(retiring)
            retiring.add_done_callback(self._retired.discard)
            self._mark, self._channel = mark, self.channels.aio_channel(self._callee.address, channel_options())
        return control_pb2_grpc.ControlServiceStub(self._channel)

    async def describe(self, timeout_s: float = DESCRIBE_TIMEOUT_S, *, telemetry: bool = False) -> FoundWorker:
        """Who it is and what it has, now; `telemetry`: what the drivers of its cards tell, too."""
        request = control_pb2.DescribeRequest(without_telemetry=not telemetry)
        try:
            answer = await self._stub.Describe(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, self._callee) from None
        return found_worker_of(answer, self._callee.address)

    async def offer(self, path: str, identity: str, parts: Sequence[SourcePart]) -> OfferAnswer:
        """Makes the model known there; what is there of it."""
        request = control_pb2.OfferRequest(
            model=control_pb2.ModelReference(path=path, identity=identity),
            parts=[
                control_pb2.ModelPart(
                    file_name=part.file_name,
                    n_bytes=part.n_bytes,
                    n_header_bytes=part.n_header_bytes,
                    stamp=part.stamp,
                )
                for part in parts
            ],
        )
        try:
            answer = await self._stub.Offer(request, timeout=_OFFER_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, self._callee) from None
        return OfferAnswer(answer.has_header, answer.held_tensors)

    async def put_header(self, identity: str, chunks: AsyncIterator[tuple[int, bytes]]) -> None:
        """Sends the headers of an offered model's parts: chunks of at most 1 MiB, each with its part's number."""
        failed: list[Exception] = []

        async def requests() -> AsyncIterator[control_pb2.PutHeaderRequest]:
            told = identity
            try:
                async for part, chunk in chunks:
                    yield control_pb2.PutHeaderRequest(identity=told, part=part, chunk=chunk)
                    told = ""
            except CaravanError as error:  # gRPC would tell nothing of it but that the call was cancelled
                failed.append(error)
                raise

        try:
            await self._stub.PutHeader(requests(), timeout=_PUT_HEADER_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise (failed[0] if failed else error_of_call(error, self._callee)) from None
        except asyncio.CancelledError:
            if failed:
                raise failed[0] from None
            raise

    async def dry_run(self, order: StageOrder) -> DryRunReport:
        """What the stage would take there."""
        try:
            answer = await self._stub.DryRun(
                control_pb2.DryRunRequest(stage=stage_message(order, is_draft=self._is_draft)),
                timeout=_DRY_RUN_TIMEOUT_S,
            )
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, self._with_layers(order.layers)) from None
        return DryRunReport(memory_of(answer.memory), answer.free_bytes)

    async def benchmark(self, order: BenchmarkOrder) -> Benchmarked:
        """How long stages take there; lasts as long as loading and computing does, unless they are remembered.

        Cancelling this ends the benchmark there.
        """
        request = control_pb2.BenchmarkRequest(
            model=control_pb2.ModelReference(path=order.path, identity=order.identity),
            context=context_message(order.params),
            runs=[
                control_pb2.BenchmarkRun(layer_start=run.start, layer_end=run.end, n_cpu_moe=n_cpu_moe)
                for run, n_cpu_moe in zip(order.runs, order.n_cpu_moe or (0,) * len(order.runs), strict=True)
            ],
            batch_sizes=order.batch_sizes,
            limit_s=order.limit_s,
        )
        try:
            answer = await self._stub.Benchmark(request)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, self._callee) from None
        return Benchmarked(tuple(map(benchmarked_run_of, answer.runs)), answer.was_remembered)

    async def echo(self, n_bytes: int) -> float:
        """Seconds until so many bytes have come back; they go in one control message."""
        request = control_pb2.EchoRequest(data=bytes(n_bytes))
        started_s = time.perf_counter()
        try:
            await self._stub.Echo(request, timeout=_ECHO_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, self._callee) from None
        return time.perf_counter() - started_s

    async def measure_link(self, address: str, worker: str) -> Link:
        """The link from there to another worker, as measured there."""
        request = control_pb2.MeasureLinkRequest(address=address, worker=worker)
        try:
            answer = await self._stub.MeasureLink(request, timeout=_MEASURE_LINK_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, self._callee) from None
        return Link(answer.round_trip_s, answer.bytes_per_s)

    async def load(
        self,
        session_id: str,
        epoch: int,
        order: StageOrder,
        next_stage: OtherStage | None,
        first_stage: OtherStage | None,
        sources: StageSources,
        on_report: Callable[[LoadReport], None],
        on_needed: Callable[[int], None],
    ) -> StageMemory:
        """Loads the stage; returns what it takes when it is loaded. Cancelling this cancels the load there.

        Args:
            next_stage: None for the last one.
            first_stage: Of several, for the last one.
            on_needed: Called when the coordinator is to give weights, with the number of connections.
        """
        request = control_pb2.LoadRequest(
            session_id=session_id,
            epoch=epoch,
            stage=stage_message(order, is_draft=self._is_draft),
            next_address=next_stage.address if next_stage else "",
            next_worker=next_stage.worker if next_stage else "",
            first_address=first_stage.address if first_stage else "",
            first_worker=first_stage.worker if first_stage else "",
            sources=sources_message(sources),
        )
        call = self._stub.Load(request)
        try:
            async for answer in call:
                if answer.HasField("loaded"):
                    return memory_of(answer.loaded.memory)
                if answer.HasField("needs_coordinator"):
                    on_needed(answer.needs_coordinator.n_connections)
                elif answer.HasField("progress"):
                    on_report(load_report_of(answer.progress))
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, self._with_layers(order.layers)) from None
        finally:
            call.cancel()
        raise EngineError(
            f"worker {self._callee.place} ended a load without a result: restart it",
            worker=self._callee.name,
            layers=order.layers,
        )

    async def unload(self, session_id: str = "", *, may_keep: bool = False) -> bool:
        """Ends the session; whether it was there.

        Args:
            session_id: Empty: a stage that is warm is freed.
            may_keep: Its stage may stay warm; else it is freed.
        """
        request = control_pb2.UnloadRequest(session_id=session_id, may_keep=may_keep)
        try:
            answer = await self._stub.Unload(request, timeout=_UNLOAD_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, self._callee) from None
        return answer.was_loaded

    async def health(self) -> Health:
        """What it holds now; answered at once also while it computes. Whoever asks says how long that may take."""
        try:
            answer = await self._stub.Health(control_pb2.HealthRequest(of_draft=self._is_draft))
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, self._callee) from None
        return Health(answer.session_id, answer.epoch)

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()
        for retiring in list(self._retired):
            retiring.cancel()
        await asyncio.gather(*self._retired, return_exceptions=True)

    def _with_layers(self, layers: LayerRange) -> Callee:
        return replace(self._callee, layers=layers)
