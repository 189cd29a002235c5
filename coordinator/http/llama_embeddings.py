# SPDX-License-Identifier: MIT
"""`POST /embedding` and `/embeddings`: vectors in llama-server's own form, which has room for one of each token. On the
server's event loop.
"""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic_core import to_json

from coordinator.embeddings import Embeddings
from coordinator.http.body import read_body
from coordinator.http.clients import client_of
from coordinator.http.collecting import while_connected
from coordinator.http.embedding import embed
from coordinator.http.schemas.embeddings import EmbeddingsRequest
from coordinator.http.service import Service


def add_llama_embedding_routes(app: FastAPI, service: Service) -> None:
    """Adds them."""

    @app.post("/embedding")
    @app.post("/embeddings")
    async def embedding(request: Request) -> Response:
        asked = await read_body(request, EmbeddingsRequest)
        async with service.served(request, asked) as served:
            embedding = embed(served.mesh(), served.within_time(asked), client_of(request))
            made = await while_connected(request, embedding)
        return await llama_response(made)


async def llama_response(made: Embeddings) -> Response:
    """A list of vectors for each input: one, or with `--pooling none` those of its tokens."""
    return Response(await asyncio.to_thread(_written, made), media_type="application/json")


def _written(made: Embeddings) -> bytes:
    """Vector by vector, so that others get to run meanwhile."""
    return b"[" + b",".join(
        b'{"index":%d,"embedding":[' % index
        + b",".join(to_json(row.tolist()) for row in vectors.reshape(-1, vectors.shape[-1]))
        + b"]}"
        for index, vectors in enumerate(made.vectors)
    ) + b"]"  # fmt: skip
