# SPDX-License-Identifier: MIT
"""Control calls to one worker: who it is, what would fit, how fast it and its links are, load, unload, health. A thin
gRPC client: it translates messages to our values and failures to our errors, and decides nothing. Used on the event
loop by `discovery`, `confirming`, `loading` and `session`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import grpc
import grpc.aio

from coordinator.errors import CaravanError, EngineError
from coordinator.fitting import DryRunReport
from coordinator.last_words import ends_of
from coordinator.statuses import Callee, error_of_call
from coordinator.weights.progress import LoadReport, WeightOrigin, WeightShare
from coordinator.weights.source import PartAddress, SourcePart
from coordinator.workers import (
    Benchmarked,
    BenchmarkedRun,
    BuildVersions,
    CardFigures,
    FoundWorker,
    Link,
    LoadedStage,
    StageMemory,
    WorkerDevice,
)
from native import ContextParams, FlashAttention, LayerRange
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

_KINDS: dict[int, str] = {
    control_pb2.DEVICE_KIND_CPU: "cpu",
    control_pb2.DEVICE_KIND_GPU: "gpu",
    control_pb2.DEVICE_KIND_INTEGRATED_GPU: "integrated_gpu",
    control_pb2.DEVICE_KIND_ACCELERATOR: "accelerator",
}

_ORIGINS: dict[int, WeightOrigin] = {
    control_pb2.WEIGHT_ORIGIN_STORE: WeightOrigin.STORE,
    control_pb2.WEIGHT_ORIGIN_FILE: WeightOrigin.FILE,
    control_pb2.WEIGHT_ORIGIN_PEER: WeightOrigin.PEER,
    control_pb2.WEIGHT_ORIGIN_INTERNET: WeightOrigin.INTERNET,
    control_pb2.WEIGHT_ORIGIN_COORDINATOR: WeightOrigin.COORDINATOR,
    control_pb2.WEIGHT_ORIGIN_WARM: WeightOrigin.WARM,
}

_MAX_SHARES = 256
"""Sources in one report: more than a mesh has workers."""

_FLASH_ATTENTION = {
    FlashAttention.AUTO: control_pb2.FLASH_ATTENTION_AUTO,
    FlashAttention.ON: control_pb2.FLASH_ATTENTION_ON,
    FlashAttention.OFF: control_pb2.FLASH_ATTENTION_OFF,
}


@dataclass(frozen=True, slots=True)
class StageOrder:
    """What a worker is to load: a layer range of a model, with these context parameters.

    Attributes:
        path: Where to look for the model's file, too.
        n_cpu_moe: Of the first so many layers of the range that have experts, these lie in system memory.
    """

    path: str
    identity: str
    layers: LayerRange
    params: ContextParams
    n_cpu_moe: int = 0


@dataclass(frozen=True, slots=True)
class BenchmarkOrder:
    """What a worker is to measure.

    Attributes:
        runs: Layer ranges, each loaded alone.
        n_cpu_moe: Of each run, of how many of its first layers with experts these lie in system memory; empty: of none.
        batch_sizes: Tokens, ascending, each at most n_batch.
        limit_s: Of computing, per run: a size that would exceed it is left out, save the first.
    """

    path: str
    identity: str
    params: ContextParams
    runs: tuple[LayerRange, ...]
    batch_sizes: tuple[int, ...]
    limit_s: float
    n_cpu_moe: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NextStage:
    """Where a stage sends its frames on."""

    worker: str
    address: str


@dataclass(frozen=True, slots=True)
class Peer:
    """A worker that holds tensors of the model, and where it gives them."""

    worker: str
    address: str
    held_tensors: bytes


@dataclass(frozen=True, slots=True)
class StageSources:
    """Where a load may take weights from that are not on the worker's machine.

    Attributes:
        max_bytes_per_s: Of all of them together; 0: no limit.
        addresses: Where it may read the parts itself.
        hashes: By tensor, what is known already, with `addresses`.
    """

    peers: tuple[Peer, ...] = ()
    coordinator_gives: bool = False
    max_bytes_per_s: int = 0
    addresses: tuple[PartAddress, ...] = ()
    hashes: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OfferAnswer:
    """What a worker has of a model: its header, and which tensors, a bit for each as in the contract."""

    has_header: bool
    held_tensors: bytes


@dataclass(frozen=True, slots=True)
class Health:
    """Which session and epoch a worker has; none: "" and 0."""

    session_id: str
    epoch: int


class WorkerClient:
    """The control side of one worker. Every call raises the errors of `statuses`; close it when done."""

    def __init__(self, address: str, channels: Channels, name: str = "") -> None:
        self.channels = channels
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
        return _found(answer, self._callee.address)

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
                control_pb2.DryRunRequest(stage=_stage_spec(order)), timeout=_DRY_RUN_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, self._with_layers(order.layers)) from None
        return DryRunReport(_memory(answer.memory), answer.free_bytes)

    async def benchmark(self, order: BenchmarkOrder) -> Benchmarked:
        """How long stages take there; lasts as long as loading and computing does, unless they are remembered.

        Cancelling this ends the benchmark there.
        """
        request = control_pb2.BenchmarkRequest(
            model=control_pb2.ModelReference(path=order.path, identity=order.identity),
            context=_context(order.params),
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
        return Benchmarked(tuple(map(_benchmarked_run, answer.runs)), answer.was_remembered)

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
        next_stage: NextStage | None,
        sources: StageSources,
        on_report: Callable[[LoadReport], None],
        on_needed: Callable[[int], None],
    ) -> StageMemory:
        """Loads the stage; returns what it takes when it is loaded. Cancelling this cancels the load there.

        Args:
            on_needed: Called when the coordinator is to give weights, with the number of connections.
        """
        request = control_pb2.LoadRequest(
            session_id=session_id,
            epoch=epoch,
            stage=_stage_spec(order),
            next_address=next_stage.address if next_stage else "",
            next_worker=next_stage.worker if next_stage else "",
            sources=_weight_sources(sources),
        )
        call = self._stub.Load(request)
        try:
            async for answer in call:
                if answer.HasField("loaded"):
                    return _memory(answer.loaded.memory)
                if answer.HasField("needs_coordinator"):
                    on_needed(answer.needs_coordinator.n_connections)
                elif answer.HasField("progress"):
                    on_report(_load_report(answer.progress))
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
            answer = await self._stub.Health(control_pb2.HealthRequest())
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


def _stage_spec(order: StageOrder) -> control_pb2.StageSpec:
    return control_pb2.StageSpec(
        model=control_pb2.ModelReference(path=order.path, identity=order.identity),
        layer_start=order.layers.start,
        layer_end=order.layers.end,
        context=_context(order.params),
        n_cpu_moe=order.n_cpu_moe,
    )


def _context(params: ContextParams) -> control_pb2.ContextParams:
    return control_pb2.ContextParams(
        n_ctx_seq=params.n_ctx_seq,
        n_seq_max=params.n_seq_max,
        n_batch=params.n_batch,
        n_ubatch=params.n_ubatch,
        kv_type_k=params.kv_type_k,
        kv_type_v=params.kv_type_v,
        flash_attention=_FLASH_ATTENTION[params.flash_attention],
        kv_unified=params.kv_unified,
    )


def _weight_sources(sources: StageSources) -> control_pb2.WeightSources:
    return control_pb2.WeightSources(
        peers=[
            control_pb2.WeightPeer(worker=peer.worker, address=peer.address, held_tensors=peer.held_tensors)
            for peer in sources.peers
        ],
        coordinator_gives=sources.coordinator_gives,
        max_bytes_per_s=sources.max_bytes_per_s,
        addresses=[address.message() for address in sources.addresses],
        hashes=[control_pb2.TensorHash(tensor=tensor, hash=hash) for tensor, hash in sources.hashes.items()],
    )


def _load_report(progress: control_pb2.LoadProgress) -> LoadReport:
    shares = tuple(
        WeightShare(_ORIGINS[share.origin], share.worker, share.n_bytes)
        for share in progress.sources[:_MAX_SHARES]
        if share.origin in _ORIGINS
    )
    return LoadReport(progress.fraction, progress.to_fetch_bytes, progress.fetched_bytes, shares)


def _benchmarked_run(run: control_pb2.BenchmarkedRun) -> BenchmarkedRun:
    points = tuple((point.n_tokens, point.seconds) for point in run.points)
    return BenchmarkedRun(LayerRange(run.layer_start, run.layer_end), points)


def _memory(memory: control_pb2.MemoryUse) -> StageMemory:
    return StageMemory(memory.weights_bytes, memory.kv_bytes, memory.compute_bytes, memory.host_bytes)


def _found(answer: control_pb2.DescribeResponse, address: str) -> FoundWorker:
    device, versions = answer.device, answer.versions
    return FoundWorker(
        name=answer.name,
        instance_id=answer.instance_id,
        address=address,
        host_name=answer.host_name,
        contract_version=answer.contract_version,
        versions=BuildVersions(versions.caravan, versions.llama_cpp_python, versions.llama_cpp, versions.ggml),
        device=WorkerDevice(
            name=device.name,
            description=device.description,
            backend=device.backend,
            kind=_KINDS.get(device.kind, "unknown"),
            free_bytes=device.free_bytes,
            total_bytes=device.total_bytes,
            shared_free_bytes=device.shared_free_bytes or device.free_bytes,
            host_free_bytes=device.host_free_bytes,
        ),
        loaded=tuple(
            LoadedStage(
                stage.session_id,
                stage.epoch,
                LayerRange(stage.layer_start, stage.layer_end),
                _memory(stage.memory),
                stage.is_serving,
                stage.is_warm,
            )
            for stage in answer.loaded
            if stage.layer_start < stage.layer_end
        ),
        telemetry=tuple(map(_card_figures, answer.telemetry)),
        weights_port=answer.weights_port if answer.weights_port < 1 << 16 else 0,
        ends=ends_of(answer.ends),
    )


def _card_figures(card: control_pb2.Telemetry) -> CardFigures:
    told = {field.name: value for field, value in card.ListFields() if field.name != "device" and math.isfinite(value)}
    return CardFigures(device=card.device, **told)
