# SPDX-License-Identifier: MIT
"""Bodies of the routes that llama-server has beside OpenAI's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from coordinator.http.schemas.sampling import RequestModel

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class TokenizeRequest(RequestModel):
    """Text, or texts with token ids among them, which are taken as they are."""

    model: str | None = Field(None, max_length=1024)
    content: str | list[str | TokenId] = ""
    add_special: bool = False
    """With what the model's texts begin and end with; only if a text comes first."""
    parse_special: bool = True
    """Special tokens that are written out in a text are read as such."""
    with_pieces: bool = False

    @property
    def parts(self) -> list[str | int]:
        return [self.content] if isinstance(self.content, str) else self.content


class DetokenizeRequest(RequestModel):
    """Token ids."""

    model: str | None = Field(None, max_length=1024)
    tokens: list[TokenId] = Field(default_factory=list)


class ModelRequest(RequestModel):
    """The model that is to be loaded or unloaded."""

    model: str = Field(max_length=1024)


class Success(BaseModel):
    """It is under way."""

    success: Literal[True] = True


class TokenPiece(BaseModel):
    """A token with its text; bytes where that is not whole characters."""

    id: int
    piece: str | list[int]


class Tokens(BaseModel):
    """The answer of `/tokenize`."""

    tokens: list[int] | list[TokenPiece]


class Content(BaseModel):
    """The answer of `/detokenize`; what is no text is replaced."""

    content: str


class PromptText(BaseModel):
    """The answer of `/apply-template`."""

    prompt: str


class InputTokens(BaseModel):
    """How long a request's prompt is."""

    input_tokens: int
