# SPDX-License-Identifier: MIT
"""`POST /v1/rerank`: how well documents answer a query, in Jina's form, or with `texts` in that of Hugging Face's Text
Embeddings Inference, as llama-server has both. On the server's event loop.
"""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from coordinator.embeddings import Ranking, RankingOptions, ranking_of
from coordinator.http.body import read_body
from coordinator.http.clients import client_of
from coordinator.http.collecting import while_connected
from coordinator.http.schemas.rerank import RerankRequest
from coordinator.http.service import Service
from coordinator.mesh import AsyncMesh


def add_rerank_routes(app: FastAPI, service: Service) -> None:
    """Adds them."""

    @app.post("/v1/rerank")
    async def rerank(request: Request) -> Response:
        asked = await read_body(request, RerankRequest)
        async with service.served(request, asked) as served:
            ranking = _ranking(served.mesh(), served.within_time(asked), client_of(request))
            made = await while_connected(request, ranking)
        return JSONResponse(_scores(made, asked) if asked.texts is not None else _results(made, asked, served.name))


async def _ranking(mesh: AsyncMesh, asked: RerankRequest, client: str) -> Ranking:
    """Documents are tokenized in a thread: there may be megabytes of them."""
    options = RankingOptions(client=client, priority=asked.priority or 0, timeout=asked.timeout)
    request = await asyncio.to_thread(lambda: mesh.admit_documents(asked.query, asked.ranked, **options))
    return ranking_of(await mesh.embed_admitted(request))


def _results(ranking: Ranking, asked: RerankRequest, model: str) -> dict[str, object]:
    return {
        "model": model,
        "object": "list",
        "usage": {"prompt_tokens": ranking.prompt_tokens, "total_tokens": ranking.prompt_tokens},
        "results": [
            {"index": index, "relevance_score": ranking.scores[index]} for index in ranking.best_first[: asked.top_n]
        ],
    }


def _scores(ranking: Ranking, asked: RerankRequest) -> list[dict[str, object]]:
    return [
        {"index": index, "score": ranking.scores[index]} | ({"text": asked.ranked[index]} if asked.return_text else {})
        for index in ranking.best_first[: asked.top_n]
    ]
