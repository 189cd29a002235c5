# SPDX-License-Identifier: MIT
"""Bodies of `/v1/models`, `/health`, and of every error."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class StageInfo(BaseModel):
    """A worker and the half-open range of layers it holds."""

    worker: str
    address: str
    layer_start: int
    layer_end: int


class ModelInfo(BaseModel):
    """The model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["caravan"] = "caravan"
    stages: list[StageInfo]


class ModelList(BaseModel):
    """OpenAI's list form; we serve one model."""

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


class Health(BaseModel):
    """`status` is loading (with the fraction done), ready (with stages), failed (with why), stopping."""

    status: Literal["loading", "ready", "failed", "stopping"]
    model: str
    fraction: float | None = None
    doing: str | None = None
    """What it does while it loads, in words."""
    loads: list[LoadInfo] | None = None
    """While it loads, each worker that does."""
    stages: list[StageInfo] | None = None
    n_running: int | None = None
    """Requests that have a sequence of their own."""
    n_waiting: int | None = None
    """Requests in the queue."""
    n_paused: int | None = None
    """Of those with a sequence, those whose streams are not read."""
    error: ErrorInfo | None = None
