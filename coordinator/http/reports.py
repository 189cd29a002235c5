# SPDX-License-Identifier: MIT
"""How a server's models are, as `/health`, `/v1/models` and `/metrics` tell it. On the server's event loop."""

from __future__ import annotations

from typing import Literal

from coordinator.catalogue import ModelPhase
from coordinator.http.errors import error_info
from coordinator.http.metrics import ModelCounts, Snapshot
from coordinator.http.schemas.status import (
    Health,
    ModelArchitecture,
    ModelHealth,
    ModelInfo,
    ModelStatusInfo,
    StageInfo,
)
from coordinator.http.service import Service, ServicePhase
from coordinator.mesh import AsyncMesh
from native import Pooling, versions


def health_of(service: Service) -> Health:
    """How far it is, with what there is to say of that."""
    models = [_model_health(service, name) for name in service.catalogue.names]
    health = Health(status=service.phase.value, model=service.name, models=models)
    for loading in [each for each in models if each.fraction is not None][:1]:
        health.fraction, health.doing, health.loads = loading.fraction, loading.doing, loading.loads
    if service.phase is ServicePhase.READY:
        meshes = service.meshes()
        n_before_loads = sum(service.catalogue.status(name).n_waiting for name in service.catalogue.names)
        health.stages = _stages(service, service.name)
        health.n_running = sum(mesh.n_running for mesh in meshes)
        health.n_waiting = sum(mesh.n_waiting for mesh in meshes) + n_before_loads
        health.n_paused = sum(mesh.n_paused for mesh in meshes)
    if service.error is not None:
        health.error = error_info(service.error)
    return health


def model_info(service: Service, name: str) -> ModelInfo:
    """A model and its line; no stages while it is not loaded."""
    return ModelInfo(
        id=name,
        created=service.created,
        status=_status(service, name),
        stages=_stages(service, name),
        architecture=_architecture(service.catalogue.mesh(name)),
    )


def snapshot_of(service: Service) -> Snapshot:
    """What there is to measure, also while it loads."""
    return Snapshot(
        build=versions().llama_cpp,
        is_ready=service.phase is ServicePhase.READY,
        answers=service.answer_counts,
        models=[_counts(service, name) for name in service.catalogue.names],
    )


def _model_health(service: Service, name: str) -> ModelHealth:
    health = ModelHealth(id=name, status=_status(service, name))
    if service.catalogue.status(name).phase is ModelPhase.LOADING:
        told = service.chronicle.of(name)
        health.fraction, health.doing, health.loads = told.fraction, told.doing, list(told.loads.values())
    return health


def _status(service: Service, name: str) -> ModelStatusInfo:
    status = service.catalogue.status(name)
    return ModelStatusInfo(
        value=status.phase.value,
        failed=True if status.error is not None else None,
        message=None if status.error is None else error_info(status.error).message,
        unloading=True if status.is_leaving else None,
    )


def _architecture(mesh: AsyncMesh | None) -> ModelArchitecture | None:
    if mesh is None:
        return None
    makes: list[Literal["text", "embeddings", "rerank"]] = ["text"] if mesh.writes else []
    if mesh.pooling is not None:
        makes.append("rerank" if mesh.pooling is Pooling.RANK else "embeddings")
    return ModelArchitecture(output_modalities=makes)


def _stages(service: Service, name: str) -> list[StageInfo]:
    mesh = service.catalogue.mesh(name)
    return [
        StageInfo(
            worker=stage.worker,
            address=stage.address,
            layer_start=stage.layers.start,
            layer_end=stage.layers.end,
        )
        for plan in (() if mesh is None else mesh.plans)
        for stage in plan.stages
    ]


def _counts(service: Service, name: str) -> ModelCounts:
    mesh, told = service.catalogue.mesh(name), service.chronicle.of(name)
    return ModelCounts(
        name, told.changes, told.pause_s, is_loaded=mesh is not None, lines=() if mesh is None else mesh.counts
    )
