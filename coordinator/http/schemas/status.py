# SPDX-License-Identifier: MIT
"""Bodies of `/v1/models`, `/health`, of answers that are deleted, and of every error."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class StageInfo(BaseModel):
    """A worker and the half-open range of layers it holds."""

    worker: str
    address: str
    layer_start: int
    layer_end: int


class DeletedAnswer(BaseModel):
    """What an answer that is ended and kept no more is told with, in OpenAI's form."""

    id: str
    object: Literal["chat.completion.deleted", "text_completion.deleted"]
    deleted: Literal[True] = True


class ModelArchitecture(BaseModel):
    """What a model takes and makes, in the form of llama-server's router."""

    input_modalities: list[Literal["text"]] = ["text"]
    output_modalities: list[Literal["text", "embeddings", "rerank"]]


class ModelStatusInfo(BaseModel):
    """As llama-server tells it.

    `failed`, with why in `message`: it could not be loaded the last time, or has no line for now. `unloading`: new
    requests wait until it is loaded again.
    """

    value: Literal["unloaded", "loading", "loaded"]
    failed: Literal[True] | None = None
    message: str | None = None
    unloading: Literal[True] | None = None


class ModelInfo(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["caravan"] = "caravan"
    status: ModelStatusInfo
    stages: list[StageInfo]
    """None while it is not loaded."""
    architecture: ModelArchitecture | None = None
    """Known when it is loaded."""


class ModelList(BaseModel):
    """OpenAI's list form."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class ErrorInfo(BaseModel):
    """OpenAI's error form."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not 200, and of the event that ends a stream early."""

    error: ErrorInfo


class LoadInfo(BaseModel):
    """How far a worker is with its layers."""

    worker: str
    layer_start: int
    layer_end: int
    fraction: float


class ModelHealth(BaseModel):
    """A model, and how far it is loaded."""

    id: str
    status: ModelStatusInfo
    fraction: float | None = None
    doing: str | None = None
    loads: list[LoadInfo] | None = None


class Health(BaseModel):
    """`status` is loading (with the fraction done), ready (with stages), failed (with why), stopping."""

    status: Literal["loading", "ready", "failed", "stopping"]
    model: str
    """That is meant where none is named: the one that was used last, else the first."""
    models: list[ModelHealth] = []
    fraction: float | None = None
    doing: str | None = None
    """What is done while one of them loads, in words."""
    loads: list[LoadInfo] | None = None
    """While one loads, each worker that does."""
    stages: list[StageInfo] | None = None
    n_running: int | None = None
    """Requests that have a sequence of their own."""
    n_waiting: int | None = None
    """Requests in the queue."""
    n_paused: int | None = None
    """Of those with a sequence, those whose streams are not read."""
    error: ErrorInfo | None = None
