# SPDX-License-Identifier: MIT
"""Embeddings as a caller has them, and the stream that the session fills with their vectors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from coordinator.errors import CancelledError, InvalidRequestError
from coordinator.frames import Embedded
from coordinator.generation import FinishReason, Signal, TokenStream
from native import EUCLIDEAN, Pooling, normalised

Inputs = str | Sequence[str | Sequence[int | str]]
"""To be embedded: a text, or several texts or lists of token ids."""


class RankingOptions(TypedDict, total=False):
    """How documents are to be ranked; all of it may be left out.

    Attributes:
        client, priority, timeout: As in `RequestOptions`.
    """

    client: str
    priority: int
    timeout: float | None


class EmbeddingOptions(RankingOptions, total=False):
    """How inputs are to be embedded; all of it may be left out.

    Attributes:
        norm: What vectors are divided by: 2 (the default) their Euclidean norm, -1 nothing, 0 such that the largest
            number is an int16's, any other p the p-norm, as llama-server's `embd_normalize` has it. Vectors of single
            tokens (Pooling.NONE) are left as they are.
        dimensions: The first so many numbers of each vector, which are then normalised; for models that were trained so
            that these say most. None: all.
    """

    norm: int
    dimensions: int | None


@dataclass(frozen=True, slots=True)
class AdmittedEmbedding:
    """A request that the session can carry out.

    Attributes:
        inputs: At least one, each of at least one token.
        finish: What becomes of the vectors.
        client, priority, timeout_s: As of an AdmittedRequest.
    """

    inputs: tuple[tuple[int, ...], ...]
    finish: Finish
    client: str = ""
    priority: int = 0
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Of several inputs.

    Attributes:
        vectors: One for each input, in their order: float32 (n,); with Pooling.NONE float32 (n_tokens, n).
        prompt_tokens: Tokens of all inputs.
    """

    vectors: tuple[NDArray[np.float32], ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Of several documents.

    Attributes:
        scores: How well each answers the query, in their order: the more, the better; of any sign, as the model's head
            makes them.
        prompt_tokens: Tokens of all documents, each with the query.
    """

    scores: tuple[float, ...]
    prompt_tokens: int

    @property
    def best_first(self) -> list[int]:
        """The places of the documents in what was asked, by their scores."""
        return sorted(range(len(self.scores)), key=lambda index: -self.scores[index])


def ranking_of(made: Embeddings) -> Ranking:
    """What a reranker's vectors say, of which the first number counts. Source: send_rerank in
    tools/server/server-context.cpp."""
    return Ranking(tuple(float(vector[0]) for vector in made.vectors), made.prompt_tokens)


@dataclass(frozen=True, slots=True)
class Finish:
    """What becomes of llama.cpp's vectors before a caller has them.

    Attributes:
        pooling: Of the mesh; vectors of single tokens are left as they are, as llama-server leaves them, and so are
            ranks.
        norm: What they are divided by, as `native.normalised` has it.
        n_dimensions: They are cut to so many first; None: they are not.
    """

    pooling: Pooling
    norm: int = EUCLIDEAN
    n_dimensions: int | None = None

    def __call__(self, raw: bytes, n_tokens: int) -> NDArray[np.float32]:
        """The vector of an input of so many tokens, or with Pooling.NONE the vectors of these.

        Raises:
            InvalidRequestError: It has not so many dimensions.
        """
        numbers = np.frombuffer(raw, "<f4")
        if self.pooling is Pooling.NONE:
            return numbers.reshape(n_tokens, -1)
        if self.pooling is Pooling.RANK:
            return numbers
        if self.n_dimensions is not None and self.n_dimensions > len(numbers):
            raise InvalidRequestError(
                f"this model's embeddings have {len(numbers)} dimensions, not {self.n_dimensions}: ask for fewer"
            )
        return normalised(numbers[: self.n_dimensions], self.norm)


class VectorStream(TokenStream):
    """A request for embeddings between the session that fills it and who waits for it to end. It has no tokens."""

    __slots__ = ("_vectors", "inputs")

    def __init__(self, inputs: Sequence[Sequence[int]], signal: Signal) -> None:
        super().__init__(tuple(itertools.chain.from_iterable(inputs)), signal)
        self.inputs = inputs
        self._vectors: dict[int, bytes] = {}

    def keep(self, embedded: Embedded) -> None:
        """An input has its vector."""
        self._vectors[embedded.index] = embedded.vector

    def result(self, finish: Finish) -> Embeddings:
        """When it has ended.

        Raises:
            CaravanError: What the request failed with.
        """
        if self.error is not None:
            raise self.error.with_traceback(None)
        if self.finish_reason is FinishReason.CANCELLED:
            raise CancelledError("the request was called off")
        vectors = (finish(self._vectors[index], len(tokens)) for index, tokens in enumerate(self.inputs))
        return Embeddings(tuple(vectors), len(self.prompt_tokens))
