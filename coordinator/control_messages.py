# SPDX-License-Identifier: MIT
"""The messages of control calls from our values, and our values from their answers. Pure; `control` makes the calls."""

from __future__ import annotations

import math

from coordinator.last_words import ends_of
from coordinator.orders import StageOrder, StageSources
from coordinator.weights.progress import LoadReport, WeightOrigin, WeightShare
from coordinator.workers import (
    BenchmarkedRun,
    BuildVersions,
    CardFigures,
    FoundWorker,
    LoadedStage,
    StageMemory,
    WorkerDevice,
)
from native import ContextParams, FlashAttention, LayerRange, Pooling
from protos.caravan.v1 import control_pb2

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

_POOLING = {
    None: control_pb2.POOLING_UNSPECIFIED,
    Pooling.NONE: control_pb2.POOLING_NONE,
    Pooling.MEAN: control_pb2.POOLING_MEAN,
    Pooling.CLS: control_pb2.POOLING_CLS,
    Pooling.LAST: control_pb2.POOLING_LAST,
    Pooling.RANK: control_pb2.POOLING_RANK,
}


def stage_message(order: StageOrder, *, is_draft: bool) -> control_pb2.StageSpec:
    """`is_draft`: for the worker's draft model, beside its line's stage."""
    return control_pb2.StageSpec(
        model=control_pb2.ModelReference(path=order.path, identity=order.identity),
        layer_start=order.layers.start,
        layer_end=order.layers.end,
        context=context_message(order.params),
        n_cpu_moe=order.n_cpu_moe,
        is_draft=is_draft,
    )


def context_message(params: ContextParams) -> control_pb2.ContextParams:
    """Of a stage, or of what is measured."""
    return control_pb2.ContextParams(
        n_ctx_seq=params.n_ctx_seq,
        n_seq_max=params.n_seq_max,
        n_batch=params.n_batch,
        n_ubatch=params.n_ubatch,
        kv_type_k=params.kv_type_k,
        kv_type_v=params.kv_type_v,
        flash_attention=_FLASH_ATTENTION[params.flash_attention],
        kv_unified=params.kv_unified,
        pooling=_POOLING[params.pooling],
    )


def sources_message(sources: StageSources) -> control_pb2.WeightSources:
    """Where a load may take weights from."""
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


def load_report_of(progress: control_pb2.LoadProgress) -> LoadReport:
    """How far a load is; sources of kinds that we do not know are left out."""
    shares = tuple(
        WeightShare(_ORIGINS[share.origin], share.worker, share.n_bytes)
        for share in progress.sources[:_MAX_SHARES]
        if share.origin in _ORIGINS
    )
    return LoadReport(progress.fraction, progress.to_fetch_bytes, progress.fetched_bytes, shares)


def benchmarked_run_of(run: control_pb2.BenchmarkedRun) -> BenchmarkedRun:
    """One of those that were asked for."""
    points = tuple((point.n_tokens, point.seconds) for point in run.points)
    return BenchmarkedRun(LayerRange(run.layer_start, run.layer_end), points)


def memory_of(memory: control_pb2.MemoryUse) -> StageMemory:
    """What a stage takes."""
    return StageMemory(memory.weights_bytes, memory.kv_bytes, memory.compute_bytes, memory.host_bytes)


def found_worker_of(answer: control_pb2.DescribeResponse, address: str) -> FoundWorker:
    """What a worker says of itself, reached at that address."""
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
                memory_of(stage.memory),
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
