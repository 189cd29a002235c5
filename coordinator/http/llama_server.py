# SPDX-License-Identifier: MIT
"""The routes that llama-server has beside OpenAI's, for its clients and for monitoring. On the server's event loop;
tokens are made beside it. Names and forms: tools/server/README.md and server-context.cpp in llama.cpp's source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from coordinator.errors import InvalidRequestError
from coordinator.http.beginning import Beginning
from coordinator.http.body import read_body
from coordinator.http.errors import RETRY_AFTER_S
from coordinator.http.exposition import MEDIA_TYPE, Exposition
from coordinator.http.line_status import is_asked
from coordinator.http.llama_settings import settings_of
from coordinator.http.rejection import RejectedError
from coordinator.http.reports import snapshot_of
from coordinator.http.schemas.chat import ChatRequest
from coordinator.http.schemas.llama_server import (
    Content,
    DetokenizeRequest,
    InputTokens,
    PromptText,
    TokenizeRequest,
    TokenPiece,
    Tokens,
)
from coordinator.http.service import Service
from coordinator.mesh import AsyncMesh
from coordinator.slot_state import SlotState
from native import SamplingParams, versions

_RANDOM_SEED = 0xFFFF_FFFF
"""How llama-server says that each request has a seed of its own."""


def add_llama_server_routes(app: FastAPI, service: Service, beginning: Beginning) -> None:
    """Adds them."""
    exposition = Exposition(lambda: snapshot_of(service))

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(exposition.text(), media_type=MEDIA_TYPE)

    @app.get("/props")
    async def props(request: Request) -> Response:
        model = service.name_of(request.query_params.get("model"))
        return JSONResponse(_props(model, service.mesh(model)))

    @app.get("/slots")
    async def slots(request: Request) -> Response:
        mesh = service.mesh(request.query_params.get("model"))
        states = [state for line in mesh.slots for state in line]
        if is_asked(request.query_params.get("fail_on_no_slot")) and all(state.request for state in states):
            message = "no slot is free: try again later"
            raise RejectedError(
                HTTPStatus.SERVICE_UNAVAILABLE, message, code="no_free_slot", retry_after_s=RETRY_AFTER_S
            )
        return JSONResponse([_slot(number, state, mesh.n_ctx) for number, state in enumerate(states)])

    _add_text_routes(app, service, beginning)


def _add_text_routes(app: FastAPI, service: Service, beginning: Beginning) -> None:
    @app.post("/tokenize")
    async def tokenize(request: Request) -> Tokens:
        asked = await read_body(request, TokenizeRequest)
        async with service.served(request, asked) as served:
            return await asyncio.to_thread(_tokens_of, served.mesh(), asked)

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Content:
        asked = await read_body(request, DetokenizeRequest)
        async with service.served(request, asked) as served:
            pieces = await asyncio.to_thread(served.mesh().pieces, asked.tokens)
        return Content(content=b"".join(pieces).decode("utf-8", "replace"))

    @app.post("/apply-template")
    async def apply_template(request: Request) -> PromptText:
        asked = await read_body(request, ChatRequest)
        async with service.served(request, asked) as served:
            return PromptText(prompt=await beginning.prompt(served.mesh(), asked))

    @app.post("/v1/chat/completions/input_tokens")
    async def input_tokens(request: Request) -> InputTokens:
        asked = await read_body(request, ChatRequest)
        async with service.served(request, asked) as served:
            prompt = await beginning.prompt(served.mesh(), asked)
            tokens = await asyncio.to_thread(served.mesh().prompt_tokens, prompt)
        return InputTokens(input_tokens=len(tokens))


def _tokens_of(mesh: AsyncMesh, asked: TokenizeRequest) -> Tokens:
    tokens: list[int] = []
    for number, part in enumerate(asked.parts):
        if isinstance(part, str):
            add_special = asked.add_special and number == 0
            tokens += mesh.tokenize(part, add_special=add_special, parse_special=asked.parse_special)
        else:
            tokens.append(part)
    if not asked.with_pieces:
        return Tokens(tokens=tokens)
    pieces = mesh.pieces(tokens)
    return Tokens(
        tokens=[TokenPiece(id=token, piece=_text_or_bytes(piece)) for token, piece in zip(tokens, pieces, strict=True)]
    )


def _text_or_bytes(piece: bytes) -> str | list[int]:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)


def _props(name: str, mesh: AsyncMesh) -> Mapping[str, Any]:
    return {
        "default_generation_settings": {"params": settings_of(SamplingParams(seed=_RANDOM_SEED)), "n_ctx": mesh.n_ctx},
        "total_slots": mesh.parallel,
        "model_alias": name,
        "model_path": str(mesh.model_path),
        "modalities": {"vision": False, "video": False, "audio": False},
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": True,
        "chat_template": _template_source(mesh),
        "bos_token": _special_text(mesh, mesh.vocabulary.bos),
        "eos_token": _special_text(mesh, mesh.vocabulary.eos),
        "build_info": versions().llama_cpp,
        "is_sleeping": False,
    }


def _template_source(mesh: AsyncMesh) -> str:
    """Empty if it has none that can be used."""
    try:
        return mesh.chat_template.source
    except InvalidRequestError:
        return ""


def _special_text(mesh: AsyncMesh, token: int | None) -> str:
    return "" if token is None else b"".join(mesh.pieces([token])).decode("utf-8", "replace")


def _slot(number: int, state: SlotState, n_ctx: int) -> Mapping[str, Any]:
    request = state.request
    told: dict[str, Any] = {
        "id": number,
        "n_ctx": n_ctx,
        "speculative": state.speculates,
        "is_processing": request is not None,
    }
    if request is None:
        return told
    return told | {
        "id_task": request.id,
        "n_prompt_tokens": request.n_prompt,
        "n_prompt_tokens_processed": max(0, min(request.n_cached, request.n_prompt) - request.n_reused),
        "n_prompt_tokens_cache": request.n_reused,
        "params": settings_of(request.sampling, request.max_tokens),
        "next_token": [
            {
                "has_next_token": True,
                "n_remain": request.max_tokens - request.n_generated,
                "n_decoded": request.n_generated,
            }
        ],
    }
