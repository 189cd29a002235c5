# SPDX-License-Identifier: MIT
"""`POST /v1/embeddings`, from a checked request to its answer. Called by the route, on the server's event loop."""

from __future__ import annotations

import asyncio
import base64
from http import HTTPStatus

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from coordinator.embeddings import EmbeddingOptions, Embeddings
from coordinator.http.rejection import RejectedError
from coordinator.http.schemas.embeddings import EmbeddingsRequest
from coordinator.mesh import AsyncMesh
from native import EUCLIDEAN, Pooling


def check_pools(mesh: AsyncMesh) -> None:
    """Whether there is a vector for a whole input.

    Raises:
        RejectedError: 400, there is not.
    """
    if mesh.pooling is Pooling.NONE:
        raise RejectedError(
            HTTPStatus.BAD_REQUEST,
            "this model was opened with a vector for each token, which this route has no form for: ask POST "
            "/embeddings, or start caravan serve with --pooling mean, cls or last, as the model was made for",
            code="not_supported",
        )


async def embed(mesh: AsyncMesh, asked: EmbeddingsRequest, client: str) -> Embeddings:
    """The vectors of all inputs, which are tokenized in a thread: there may be megabytes of them.

    Raises:
        CaravanError: as `AsyncMesh.embed`.
    """
    options = EmbeddingOptions(
        norm=EUCLIDEAN if asked.embd_normalize is None else asked.embd_normalize,
        dimensions=asked.dimensions,
        client=client,
        priority=asked.priority or 0,
        timeout=asked.timeout,
    )
    request = await asyncio.to_thread(lambda: mesh.admit_inputs(asked.inputs, **options))
    return await mesh.embed_admitted(request)


def answer_of(embeddings: Embeddings, asked: EmbeddingsRequest, model: str) -> bytes:
    """The answer's body, in the form that was asked for. The largest have 40 MB and take a second: for a thread, and
    vector by vector, so that others get to run meanwhile.
    """
    n_tokens = embeddings.prompt_tokens
    told = _in_base64 if asked.encoding_format == "base64" else _in_numbers
    items = [
        to_json({"object": "embedding", "index": index, "embedding": told(vector)})
        for index, vector in enumerate(embeddings.vectors)
    ]
    rest = to_json({"model": model, "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens}})
    return b'{"object":"list","data":[' + b",".join(items) + b"]," + rest[1:]


def _in_numbers(vector: NDArray[np.float32]) -> list[float]:
    return list(vector.tolist())


def _in_base64(vector: NDArray[np.float32]) -> str:
    """Its numbers as little-endian float32."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
