# SPDX-License-Identifier: MIT
"""The body of `POST /v1/rerank`, as llama-server takes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from coordinator.http.schemas.embeddings import MAX_INPUTS
from coordinator.http.schemas.refused import refusal
from coordinator.http.schemas.sampling import MAX_PRIORITY, MAX_TIMEOUT_S, RequestModel

Documents = Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_INPUTS, strict=False)]


class RerankRequest(RequestModel):
    """Documents are Jina's `documents`, or `texts` as Text Embeddings Inference has them, which asks for its form of an
    answer."""

    query: str
    documents: Documents | None = None
    texts: Documents | None = None
    top_n: int | None = Field(None, ge=1)
    return_text: bool | None = False
    """With `texts`: whether the answer has them again."""
    model: str | None = Field(None, max_length=1024)
    priority: int | None = Field(0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    timeout: float | None = Field(None, gt=0, le=MAX_TIMEOUT_S)

    @model_validator(mode="after")
    def _has_documents(self) -> RerankRequest:
        if self.documents is None and self.texts is None:
            raise refusal("documents: a list of at least one text is missing", "documents")
        return self

    @property
    def ranked(self) -> tuple[str, ...]:
        return self.documents or self.texts or ()
