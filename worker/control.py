# SPDX-License-Identifier: MIT
"""ControlService: translates between the contract's messages and the holder. Decides nothing.

Its methods run on gRPC's threads.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import grpc

from native import ContextParams, Device, DeviceKind, FlashAttention, LayerRange, MemoryUse, Pooling
from protos.caravan.v1 import control_pb2, control_pb2_grpc, weights_pb2
from protos.channels import Channels
from protos.contract import CONTROL_LIMIT_BYTES, is_session_id
from protos.weights import HASH_BYTES, held_bits
from worker.answering import failures_answered
from worker.benchmark import Benchmarked, BenchmarkOrder, Benchmarks
from worker.description import Description
from worker.errors import BadRequestError, StreamLostError
from worker.failures import Culprit
from worker.figures import CardFigures
from worker.holder import Health, Loaded
from worker.holdings import Holdings
from worker.last_words import end_messages
from worker.link import measure_link
from worker.listening import Endpoint
from worker.loading import Event, NeedsCoordinator
from worker.session import LoadOrder, Neighbour, Phase, StageSpec
from worker.telemetry import Telemetry
from worker.weights.address import Address
from worker.weights.draft import HeaderChunk
from worker.weights.offers import Offers
from worker.weights.parts import Part
from worker.weights.sources import Origin, Peer, WeightSources

_FLASH_ATTENTION = {
    control_pb2.FLASH_ATTENTION_AUTO: FlashAttention.AUTO,
    control_pb2.FLASH_ATTENTION_ON: FlashAttention.ON,
    control_pb2.FLASH_ATTENTION_OFF: FlashAttention.OFF,
}
_POOLING = {
    control_pb2.POOLING_UNSPECIFIED: None,
    control_pb2.POOLING_NONE: Pooling.NONE,
    control_pb2.POOLING_MEAN: Pooling.MEAN,
    control_pb2.POOLING_CLS: Pooling.CLS,
    control_pb2.POOLING_LAST: Pooling.LAST,
    control_pb2.POOLING_RANK: Pooling.RANK,
}
_DEVICE_KINDS = {
    DeviceKind.CPU: control_pb2.DEVICE_KIND_CPU,
    DeviceKind.GPU: control_pb2.DEVICE_KIND_GPU,
    DeviceKind.INTEGRATED_GPU: control_pb2.DEVICE_KIND_INTEGRATED_GPU,
    DeviceKind.ACCELERATOR: control_pb2.DEVICE_KIND_ACCELERATOR,
}
_PHASES = {
    Phase.IDLE: control_pb2.WORKER_STATE_IDLE,
    Phase.LOADING: control_pb2.WORKER_STATE_LOADING,
    Phase.UNLOADING: control_pb2.WORKER_STATE_LOADING,
    Phase.READY: control_pb2.WORKER_STATE_READY,
    Phase.FAILED: control_pb2.WORKER_STATE_FAILED,
    Phase.WARM: control_pb2.WORKER_STATE_IDLE,
    Phase.BENCHMARKING: control_pb2.WORKER_STATE_LOADING,
}

_ORIGINS = {
    Origin.STORE: control_pb2.WEIGHT_ORIGIN_STORE,
    Origin.FILE: control_pb2.WEIGHT_ORIGIN_FILE,
    Origin.PEER: control_pb2.WEIGHT_ORIGIN_PEER,
    Origin.INTERNET: control_pb2.WEIGHT_ORIGIN_INTERNET,
    Origin.COORDINATOR: control_pb2.WEIGHT_ORIGIN_COORDINATOR,
    Origin.WARM: control_pb2.WEIGHT_ORIGIN_WARM,
}

# llama.cpp keeps some 50 bytes of bookkeeping for each KV cell, even in a dry run: this is 800 MB of it.
MAX_CELLS = 1 << 24
# Of a header, in one message.
CHUNK_LIMIT_BYTES = 1 << 20
# llama.cpp's default is 2048; a context keeps some 30 bytes for each token of a batch, whatever the model is.
MAX_BATCH_TOKENS = 1 << 16
# To one load: as many as a weights port takes connections. Each peer gets threads with buffers.
MAX_PEERS = 128
MAX_ADDRESSES = 1024
# More than there are layers in any model.
MAX_RUNS = 512


class ControlServicer(control_pb2_grpc.ControlServiceServicer):
    """What the coordinator asks of this worker outside the line."""

    def __init__(
        self,
        holdings: Holdings,
        benchmarks: Benchmarks,
        offers: Offers,
        description: Description,
        n_threads: int | None,
        telemetry: Telemetry,
        weights_port: int,
        channels: Channels,
    ) -> None:
        """`n_threads`: how many this worker computes with; None: one per core."""
        self._holdings = holdings
        self._holder = holdings.line
        self._benchmarks = benchmarks
        self._offers = offers
        self._description = description
        self._n_threads = n_threads
        self._telemetry = telemetry
        self._weights_port = weights_port
        self._channels = channels

    def Describe(
        self, request: control_pb2.DescribeRequest, context: grpc.ServicerContext
    ) -> control_pb2.DescribeResponse:
        """Who this worker is and what it has."""
        about = self._description
        loaded = self._holder.loaded()
        return control_pb2.DescribeResponse(
            name=about.name,
            instance_id=about.instance_id,
            contract_version=about.contract_version,
            versions=control_pb2.Versions(
                caravan=about.caravan_version,
                llama_cpp_python=about.engine.llama_cpp_python,
                llama_cpp=about.engine.llama_cpp,
                ggml=about.engine.ggml,
            ),
            device=_device(self._holder.device(), self._holder.shared_free_bytes(), self._holder.host_free_bytes()),
            host_name=about.host_name,
            loaded=[] if loaded is None else [_loaded_stage(loaded)],
            telemetry=[] if request.without_telemetry else map(_card_figures, self._telemetry.read()),
            weights_port=self._weights_port,
            ends=end_messages(about.ends),
        )

    def Offer(self, request: control_pb2.OfferRequest, context: grpc.ServicerContext) -> control_pb2.OfferResponse:
        """Makes a model known."""
        with failures_answered(context, lambda: Culprit(self._description.name)):
            parts = [Part(p.file_name, p.n_bytes, p.n_header_bytes, p.stamp) for p in request.parts]
            here = self._offers.offer(request.model.identity, request.model.path, parts)
            return control_pb2.OfferResponse(has_header=here.has_header, held_tensors=held_bits(list(here.held)))

    def PutHeader(
        self, request_iterator: Iterator[control_pb2.PutHeaderRequest], context: grpc.ServicerContext
    ) -> control_pb2.PutHeaderResponse:
        """Takes the header of a model."""
        with failures_answered(context, lambda: Culprit(self._description.name)):
            requests = _received(request_iterator)
            first = next(requests, None)
            if first is None:
                raise BadRequestError("no header came")
            chunks = _header_chunks(itertools.chain([first], requests))
            self._offers.put_header(first.identity, chunks)
            return control_pb2.PutHeaderResponse()

    def DryRun(self, request: control_pb2.DryRunRequest, context: grpc.ServicerContext) -> control_pb2.DryRunResponse:
        """What a stage would take here."""
        with failures_answered(context, lambda: self._culprit(request.stage)):
            spec = _stage_spec(request.stage, self._n_threads)
            use, free_bytes = self._holdings.of(spec).dry_run(spec)
            return control_pb2.DryRunResponse(memory=_memory_use(use), free_bytes=free_bytes)

    def Benchmark(
        self, request: control_pb2.BenchmarkRequest, context: grpc.ServicerContext
    ) -> control_pb2.BenchmarkResponse:
        """How long stages take here; a caller that goes away ends it."""
        with failures_answered(context, lambda: Culprit(self._description.name)):
            order = _benchmark_order(request, self._n_threads)
            benchmarked = self._benchmarks.run(order, lambda cancel: _call_at_end(context, cancel))
            return _benchmark_response(order, benchmarked)

    def Echo(self, request: control_pb2.EchoRequest, context: grpc.ServicerContext) -> control_pb2.EchoResponse:
        """Sends back what came."""
        with failures_answered(context, lambda: Culprit(self._description.name)):
            if len(request.data) > CONTROL_LIMIT_BYTES:
                raise BadRequestError(f"an echo of {len(request.data)} bytes is too large; at most 4 MiB come back")
            return control_pb2.EchoResponse(data=request.data)

    def MeasureLink(
        self, request: control_pb2.MeasureLinkRequest, context: grpc.ServicerContext
    ) -> control_pb2.MeasureLinkResponse:
        """The link from here to another worker."""
        with failures_answered(context, lambda: Culprit(self._description.name)):
            link = measure_link(_neighbour(request.worker, request.address), self._channels)
            return control_pb2.MeasureLinkResponse(round_trip_s=link.round_trip_s, bytes_per_s=link.bytes_per_s)

    def Load(
        self, request: control_pb2.LoadRequest, context: grpc.ServicerContext
    ) -> Iterator[control_pb2.LoadResponse]:
        """Loads a stage, with progress; a caller that goes away cancels it."""
        with failures_answered(context, lambda: self._culprit(request.stage)):
            order = _load_order(request, self._n_threads)
            holder = self._holdings.of(order.spec)
            loading = holder.load(order)
            if loading is not None:
                _call_at_end(context, loading.cancel)
                for event in loading.events():
                    yield _load_response(event)
                loading.wait()
            loaded = holder.loaded()
            if loaded is None:
                raise BadRequestError(f"session {request.session_id} was unloaded while it was loading")
            yield control_pb2.LoadResponse(loaded=_loaded_stage(loaded))

    def Unload(self, request: control_pb2.UnloadRequest, context: grpc.ServicerContext) -> control_pb2.UnloadResponse:
        """Ends a session."""
        was_loaded = self._holdings.unload(request.session_id, may_keep=request.may_keep)
        return control_pb2.UnloadResponse(was_loaded=was_loaded)

    def Health(self, request: control_pb2.HealthRequest, context: grpc.ServicerContext) -> control_pb2.HealthResponse:
        """Whether the worker lives and what it does."""
        health = (self._holdings.draft if request.of_draft else self._holdings.line).health()
        return control_pb2.HealthResponse(
            state=_state(health),
            session_id=health.session_id,
            epoch=health.epoch,
            n_frames=health.n_frames,
            error=health.error,
        )

    def _culprit(self, stage: control_pb2.StageSpec) -> Culprit:
        is_range = stage.layer_start < stage.layer_end
        layers = LayerRange(stage.layer_start, stage.layer_end) if is_range else None
        return Culprit(self._description.name, layers)


def _call_at_end(context: grpc.ServicerContext, callback: Callable[[], None]) -> None:
    """Calls `callback` when the call is over, at once if it is already."""
    if not context.add_callback(callback):
        callback()


def _header_chunks(requests: Iterable[control_pb2.PutHeaderRequest]) -> Iterator[HeaderChunk]:
    for index, request in enumerate(requests):
        if request.identity and index > 0:
            raise BadRequestError("only the first message of a header names the model")
        if len(request.chunk) > CHUNK_LIMIT_BYTES:
            raise BadRequestError(f"a chunk of {len(request.chunk)} bytes is too large; at most 1 MiB are allowed")
        yield HeaderChunk(request.part, request.chunk)


def _received(requests: Iterable[control_pb2.PutHeaderRequest]) -> Iterator[control_pb2.PutHeaderRequest]:
    try:
        yield from requests
    except grpc.RpcError as error:
        raise StreamLostError("whoever sent the header went away in the middle") from error


def _load_order(request: control_pb2.LoadRequest, n_threads: int | None) -> LoadOrder:
    """Raises BadRequestError for what no session can be."""
    if not is_session_id(request.session_id):
        raise BadRequestError("a session id has 1 to 64 of the characters 0-9, a-z, A-Z, '_' and '-'")
    if request.epoch < 1:
        raise BadRequestError("epochs count from 1")
    return LoadOrder(
        session_id=request.session_id,
        epoch=request.epoch,
        spec=_stage_spec(request.stage, n_threads),
        next_worker=_neighbour(request.next_worker, request.next_address) if request.next_address else None,
        sources=_weight_sources(request.sources) if request.HasField("sources") else None,
        first_worker=_neighbour(request.first_worker, request.first_address) if request.first_address else None,
    )


def _weight_sources(sources: control_pb2.WeightSources) -> WeightSources:
    if len(sources.peers) > MAX_PEERS:
        raise BadRequestError(f"weights may come from {MAX_PEERS} workers at most, not from {len(sources.peers)}")
    return WeightSources(
        peers=tuple(_peer(peer) for peer in sources.peers),
        coordinator_gives=sources.coordinator_gives,
        max_bytes_per_s=sources.max_bytes_per_s,
        addresses=_addresses(sources.addresses),
        hashes=_hashes(sources.hashes),
    )


def _addresses(messages: Sequence[weights_pb2.WeightAddress]) -> tuple[Address, ...]:
    if len(messages) > MAX_ADDRESSES:
        raise BadRequestError(f"a model is read from {MAX_ADDRESSES} addresses at most, not from {len(messages)}")
    try:
        return tuple(Address.parse(message) for message in messages)
    except ValueError as error:
        raise BadRequestError(str(error)) from error


def _hashes(messages: Sequence[control_pb2.TensorHash]) -> dict[int, bytes]:
    for message in messages:
        if len(message.hash) != HASH_BYTES:
            raise BadRequestError(f"a hash has {HASH_BYTES} bytes, not {len(message.hash)}")
    return {message.tensor: message.hash for message in messages}


def _peer(peer: control_pb2.WeightPeer) -> Peer:
    try:
        endpoint = Endpoint.parse(peer.address)
    except ValueError as error:
        raise BadRequestError(f"the weights port of a worker {error}") from error
    return Peer(peer.worker or peer.address, endpoint.host, endpoint.port, peer.held_tensors)


def _load_response(event: Event) -> control_pb2.LoadResponse:
    if isinstance(event, NeedsCoordinator):
        needs = control_pb2.NeedsCoordinator(n_connections=event.n_connections)
        return control_pb2.LoadResponse(needs_coordinator=needs)
    fetch = event.fetch
    progress = control_pb2.LoadProgress(
        fraction=event.fraction,
        to_fetch_bytes=fetch.to_fetch_bytes,
        fetched_bytes=fetch.fetched_bytes,
        sources=[
            control_pb2.SourceProgress(origin=_ORIGINS[source.origin], worker=source.worker, n_bytes=n_bytes)
            for source, n_bytes in fetch.by_source
        ],
    )
    return control_pb2.LoadResponse(progress=progress)


def _neighbour(name: str, address: str) -> Neighbour:
    try:
        Endpoint.parse(address)
    except ValueError as error:
        raise BadRequestError(f"the other worker's address {error}") from error
    return Neighbour(name or address, address)


def _benchmark_order(request: control_pb2.BenchmarkRequest, n_threads: int | None) -> BenchmarkOrder:
    """Raises BadRequestError for what cannot be measured."""
    params = _context_params(request.context, n_threads)
    sizes = tuple(request.batch_sizes)
    if not sizes or sizes[0] < 1 or any(size >= after for size, after in itertools.pairwise(sizes)):
        raise BadRequestError("batch sizes are at least 1, and each is larger than the one before")
    if sizes[-1] > params.n_batch or sizes[-1] > max(params.n_ctx_seq, params.n_seq_max):
        raise BadRequestError(
            f"a batch of {sizes[-1]} tokens is more than n_batch ({params.n_batch}) or a sequence's context"
            f" ({params.n_ctx_seq}) holds"
        )
    if not request.limit_s > 0:
        raise BadRequestError("a benchmark is given more than 0 seconds")
    if not 1 <= len(request.runs) <= MAX_RUNS:
        raise BadRequestError(f"a benchmark names 1 to {MAX_RUNS} ranges of layers to measure, not {len(request.runs)}")
    return BenchmarkOrder(
        runs=tuple(_run_spec(request.model, run, params) for run in request.runs),
        batch_sizes=sizes,
        limit_s=request.limit_s,
    )


def _stage_spec(stage: control_pb2.StageSpec, n_threads: int | None) -> StageSpec:
    spec = _run_spec(stage.model, stage, _context_params(stage.context, n_threads))
    return replace(spec, is_draft=stage.is_draft)


def _run_spec(
    model: control_pb2.ModelReference, run: control_pb2.StageSpec | control_pb2.BenchmarkRun, params: ContextParams
) -> StageSpec:
    if not model.path or not model.identity:
        raise BadRequestError("a stage names its model by path and identity")
    if run.layer_start >= run.layer_end:
        raise BadRequestError(f"layers [{run.layer_start}, {run.layer_end}) are none")
    return StageSpec(
        path=model.path,
        identity=model.identity,
        layers=LayerRange(run.layer_start, run.layer_end),
        params=params,
        n_cpu_moe=run.n_cpu_moe,
    )


def _context_params(params: control_pb2.ContextParams, n_threads: int | None) -> ContextParams:
    flash_attention = _FLASH_ATTENTION.get(params.flash_attention)
    if flash_attention is None:
        raise BadRequestError("flash_attention must be given: AUTO, ON or OFF")
    if params.n_ctx_seq * params.n_seq_max > MAX_CELLS:
        raise BadRequestError(
            f"{params.n_seq_max} sequences of {params.n_ctx_seq} tokens are too much;"
            f" together they may have {MAX_CELLS} tokens"
        )
    if params.n_batch > MAX_BATCH_TOKENS:
        raise BadRequestError(
            f"a batch of {params.n_batch} tokens is too large; at most {MAX_BATCH_TOKENS} are allowed"
        )
    try:
        return ContextParams(
            n_ctx_seq=params.n_ctx_seq,
            n_seq_max=params.n_seq_max,
            n_batch=params.n_batch,
            n_ubatch=params.n_ubatch,
            kv_type_k=params.kv_type_k,
            kv_type_v=params.kv_type_v,
            flash_attention=flash_attention,
            kv_unified=params.kv_unified,
            n_threads=n_threads,
            pooling=_pooling(params.pooling),
        )
    except ValueError as error:
        raise BadRequestError(str(error)) from error


def _pooling(pooling: control_pb2.Pooling) -> Pooling | None:
    if pooling not in _POOLING:
        raise BadRequestError(f"there is no pooling {pooling} here; leave it out, or use workers of this version")
    return _POOLING[pooling]


def _device(device: Device, shared_free_bytes: int, host_free_bytes: int) -> control_pb2.Device:
    return control_pb2.Device(
        name=device.name,
        description=device.description,
        backend=device.backend,
        kind=_DEVICE_KINDS[device.kind],
        free_bytes=device.free_bytes,
        total_bytes=device.total_bytes,
        shared_free_bytes=shared_free_bytes,
        host_free_bytes=host_free_bytes,
    )


def _card_figures(card: CardFigures) -> control_pb2.Telemetry:
    return control_pb2.Telemetry(
        device=card.device,
        used_bytes=card.used_bytes,
        utilisation=card.utilisation,
        temperature_c=card.temperature_c,
        power_w=card.power_w,
        power_limit_w=card.power_limit_w,
    )


def _memory_use(use: MemoryUse) -> control_pb2.MemoryUse:
    return control_pb2.MemoryUse(
        weights_bytes=use.weights_bytes,
        kv_bytes=use.kv_bytes,
        compute_bytes=use.compute_bytes,
        host_bytes=use.host_bytes,
    )


def _benchmark_response(order: BenchmarkOrder, benchmarked: Benchmarked) -> control_pb2.BenchmarkResponse:
    return control_pb2.BenchmarkResponse(
        runs=[
            control_pb2.BenchmarkedRun(
                layer_start=spec.layers.start,
                layer_end=spec.layers.end,
                points=[control_pb2.BenchmarkPoint(n_tokens=p.n_tokens, seconds=p.seconds) for p in points],
            )
            for spec, points in zip(order.runs, benchmarked.runs, strict=True)
        ],
        was_remembered=benchmarked.was_remembered,
    )


def _loaded_stage(loaded: Loaded) -> control_pb2.LoadedStage:
    return control_pb2.LoadedStage(
        session_id=loaded.session_id,
        epoch=loaded.epoch,
        layer_start=loaded.layers.start,
        layer_end=loaded.layers.end,
        memory=_memory_use(loaded.memory),
        is_serving=loaded.is_serving,
        is_warm=loaded.is_warm,
    )


def _state(health: Health) -> control_pb2.WorkerState:
    if health.phase is Phase.READY and health.is_computing:
        return control_pb2.WORKER_STATE_COMPUTING
    return _PHASES[health.phase]
