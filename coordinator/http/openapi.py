# SPDX-License-Identifier: MIT
"""The OpenAPI document of the application, `/openapi.json`: for those who make clients, and who look for holes.

Bodies are read by `body`, not by FastAPI, so what they are is told here.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from coordinator.http.schemas.chat import ChatRequest
from coordinator.http.schemas.completions import CompletionRequest
from coordinator.http.schemas.embeddings import EmbeddingsRequest
from coordinator.http.schemas.llama_completion import LlamaCompletionRequest
from coordinator.http.schemas.llama_server import DetokenizeRequest, ModelRequest, TokenizeRequest
from coordinator.http.schemas.rerank import RerankRequest
from coordinator.http.schemas.response_request import ResponseRequest
from coordinator.http.schemas.status import ErrorBody

_BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingsRequest,
    "/v1/rerank": RerankRequest,
    "/v1/chat/completions/input_tokens": ChatRequest,
    "/apply-template": ChatRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
    "/v1/responses": ResponseRequest,
    "/completion": LlamaCompletionRequest,
    "/completions": LlamaCompletionRequest,
    "/embedding": EmbeddingsRequest,
    "/embeddings": EmbeddingsRequest,
    "/v1/models/load": ModelRequest,
    "/v1/models/unload": ModelRequest,
}
_REFERENCE = "#/components/schemas/{model}"
_VERSION = "1"


def document(app: FastAPI) -> dict[str, Any]:
    """What FastAPI knows of the routes, with their bodies and the form of errors."""
    told = get_openapi(title=app.title, version=_VERSION, routes=app.routes)
    schemas = told.setdefault("components", {}).setdefault("schemas", {})
    models: list[type[BaseModel]] = [*dict.fromkeys(_BODIES.values()), ErrorBody]
    for model in models:
        schema = model.model_json_schema(ref_template=_REFERENCE)
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    for path, methods in told["paths"].items():
        for operation in methods.values():
            operation["responses"] = {"200": {"description": "OK"}, "default": _error()}
        if path in _BODIES:
            methods["post"]["requestBody"] = {"required": True, "content": _json_of(_BODIES[path])}
    return told


def _error() -> dict[str, Any]:
    return {"description": "What is wrong, in OpenAI's form.", "content": _json_of(ErrorBody)}


def _json_of(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}}
