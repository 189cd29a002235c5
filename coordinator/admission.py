# SPDX-License-Identifier: MIT
"""What a caller asks for, checked before anything is sent. Thread-safe: `AsyncMesh` calls it on its event loop, `Mesh`
on the caller's own thread.

The bounds here are no looser than those of the workers, which take a frame out of bounds for an attack and end the
session.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from coordinator.context_shift import n_kept
from coordinator.embeddings import AdmittedEmbedding, EmbeddingOptions, Finish, RankingOptions
from coordinator.errors import InputTooLongError, InvalidRequestError, NotMadeForError, PromptTooLongError
from coordinator.prompts import Lease, Prompts
from coordinator.sequence import EmbeddingLimits
from native import EUCLIDEAN, NativeError, Pooling, SamplingParams, Vocabulary, check_params

RANDOM_SEED = 2**32 - 1
"""llama.cpp's LLAMA_DEFAULT_SEED: take any. Resolved here, so that a sampler can be rebuilt from its parameters."""

_MAX_GRAMMAR_BYTES = 256 * 1024
_MAX_FLOAT32 = 3.4028234e38
_INT32_END = 1 << 31


class RequestOptions(TypedDict, total=False):
    """How a prompt is to be answered; all of it may be left out.

    Attributes:
        sampling: None: llama-server's defaults with a random seed.
        max_tokens: None: up to the end of the context. More than that only where the mesh was opened with
            `context_shift`: then half of what follows the first `n_keep` tokens goes whenever the context is full, and
            what follows is written without it.
        stop: Texts that end it; they are not part of the answer.
        n_keep: Tokens of the prompt that stay when the context shifts, beside the one that the model's texts begin
            with; -1: all of them. 0 unless asked otherwise.
        cache_prompt: Whether to go on from what earlier requests with the same beginning left in the cache (the
            default), or compute the whole prompt. What was computed in other batches can differ in the last bits.
        client: Whose request it is. Slots are shared fairly among clients, and `client_limit` counts by them.
        priority: Of those that wait the lowest number goes first; 0 unless asked otherwise. Every eighth slot goes by
            age alone, so that a high number waits long, and not for ever.
        timeout: How long it may take from its submission, in seconds; then it ends with DeadlineError. None: as long as
            the mesh allows.
        max_unread: When so many of its tokens lie unread, the request is paused (it keeps its slot) until half of them
            are read; if that takes minutes and others wait, it ends with SlowReaderError. None: it is never paused, and
            many requests can be begun at once and read one after another.
        tells_progress: Whether to tell how far its prompt is (`AsyncGeneration.prompt_progress`).
    """

    sampling: SamplingParams | None
    max_tokens: int | None
    stop: Sequence[str]
    n_keep: int
    cache_prompt: bool
    client: str
    priority: int
    timeout: float | None
    max_unread: int | None
    tells_progress: bool


@dataclass(frozen=True, slots=True)
class AdmittedRequest:
    """A request that the session can carry out.

    Attributes:
        max_tokens: At least 1; with the prompt no more than the context of a sequence, where that does not shift.
        stop: Not empty each.
        cache_prompt: Whether what other requests left in the cache may serve its prompt.
        client: Whose it is.
        priority: The lowest goes first.
        timeout_s: From its submission; None: it may take any time.
        max_unread: At least 1; None: any number of tokens may lie unread.
        n_keep: Tokens at the beginning that stay when the context shifts.
        tells_progress: Whether its stream tells how far its prompt is.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    stop: tuple[str, ...]
    sampling: SamplingParams
    cache_prompt: bool = True
    client: str = ""
    priority: int = 0
    timeout_s: float | None = None
    max_unread: int | None = None
    n_keep: int = 0
    tells_progress: bool = False


class Admission(Prompts):
    """The gate of one mesh: prompts, and what is to be done with them.

    Args:
        vocabulary: As for Prompts.
        n_ctx: Tokens per sequence.
        timeout_s: How long any request may take, in seconds; None: any time.
        shifts: Whether a request may go on when its context is full.
        embedding: How inputs are embedded; None: they are not.
        writes: Whether the model makes text.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        n_ctx: int,
        timeout_s: float | None = None,
        *,
        shifts: bool = False,
        embedding: EmbeddingLimits | None = None,
        writes: bool = True,
    ) -> None:
        super().__init__(vocabulary, writes=writes)
        self._n_ctx = n_ctx
        self._shifts = shifts
        self._embedding = embedding
        self._timeout_s = math.inf if timeout_s is None else timeout_s

    def admit(self, prompt: tuple[int, ...], options: RequestOptions) -> AdmittedRequest:
        """Checks the rest.

        Raises:
            NotMadeForError: The model makes no text.
            PromptTooLongError: No room for one token.
            InvalidRequestError: What else cannot be.
        """
        lease = self.enter()
        self.check_writes()
        if not prompt:
            raise InvalidRequestError("the prompt is empty")
        if len(prompt) >= self._n_ctx:
            raise PromptTooLongError(len(prompt), self._n_ctx)
        max_tokens = options.get("max_tokens")
        if max_tokens is not None and max_tokens < 1:
            raise InvalidRequestError(f"max_tokens must be at least 1, not {max_tokens}")
        max_unread = options.get("max_unread")
        if max_unread is not None and max_unread < 1:
            raise InvalidRequestError(f"max_unread must be at least 1, or None, not {max_unread}")
        n_keep = options.get("n_keep", 0)
        if n_keep < -1:
            raise InvalidRequestError(f"n_keep must be a number of tokens, or -1 for all of the prompt, not {n_keep}")
        room = self._n_ctx - len(prompt)
        return AdmittedRequest(
            prompt,
            max_tokens=room if max_tokens is None else max_tokens if self._shifts else min(max_tokens, room),
            stop=_stop_strings(options.get("stop", ())),
            sampling=_checked(lease, options.get("sampling") or SamplingParams(seed=RANDOM_SEED)),
            cache_prompt=options.get("cache_prompt", True),
            client=options.get("client", ""),
            priority=options.get("priority", 0),
            timeout_s=self._bounded(options.get("timeout")),
            max_unread=max_unread,
            n_keep=n_kept(n_keep, len(prompt), self._n_ctx, adds_bos=lease.vocabulary.add_bos),
            tells_progress=options.get("tells_progress", False),
        )

    def check(self, request: AdmittedRequest) -> None:
        """Whether this gate could have admitted it, as another of the same model did.

        Raises:
            ClosedError, PromptTooLongError, InvalidRequestError: As `admit`.
        """
        lease = self.enter()
        self.prompt_tokens(request.prompt)
        if len(request.prompt) + request.max_tokens > self._n_ctx:
            raise PromptTooLongError(len(request.prompt), self._n_ctx)
        _checked(lease, request.sampling)

    def admit_embedding(self, inputs: tuple[tuple[int, ...], ...], options: EmbeddingOptions) -> AdmittedEmbedding:
        """Checks inputs to be embedded.

        Raises:
            NotMadeForError: The mesh embeds nothing.
            InputTooLongError: One of them is too long.
            InvalidRequestError: What else cannot be.
        """
        limits = self._embedding
        if limits is None:
            raise NotMadeForError(
                "this model was not opened for embeddings: start caravan serve with --embeddings, and open a mesh with "
                "embeddings=True"
            )
        if limits.pooling is Pooling.RANK:
            raise NotMadeForError(
                "this model is a reranker, and says how well documents answer a query: ask POST /v1/rerank, or "
                "Mesh.rerank; for its vectors, open it with --pooling mean, cls or last"
            )
        dimensions = options.get("dimensions")
        if dimensions is not None and dimensions < 1:
            raise InvalidRequestError(f"an embedding has at least 1 dimension, not {dimensions}")
        finish = Finish(limits.pooling, options.get("norm", EUCLIDEAN), dimensions)
        return self._admit_inputs(inputs, finish, limits, options)

    def admit_ranking(self, query: str, documents: Sequence[str], options: RankingOptions) -> AdmittedEmbedding:
        """Checks documents to be ranked, and lays each out with its query.

        Raises:
            NotMadeForError: The mesh ranks nothing.
            InputTooLongError, InvalidRequestError: As `admit_embedding`.
        """
        limits = self._embedding
        if limits is None or limits.pooling is not Pooling.RANK:
            raise NotMadeForError(
                "this model was not opened to rank documents: that takes a reranker, as bge-reranker or Qwen3-Reranker "
                "are, and no other --pooling than rank"
            )
        inputs = tuple(self.query_and_document(query, document) for document in documents)
        return self._admit_inputs(inputs, Finish(Pooling.RANK), limits, options)

    def _admit_inputs(
        self, inputs: tuple[tuple[int, ...], ...], finish: Finish, limits: EmbeddingLimits, options: RankingOptions
    ) -> AdmittedEmbedding:
        self.enter()
        if not inputs or not all(inputs):
            raise InvalidRequestError(
                "there is nothing to embed: give at least one input, and at least a token in each"
            )
        for index, tokens in enumerate(inputs):
            if len(tokens) > limits.n_input:
                raise InputTooLongError(index, len(tokens), limits.n_input, limits.remedy)
        return AdmittedEmbedding(
            inputs,
            finish,
            client=options.get("client", ""),
            priority=options.get("priority", 0),
            timeout_s=self._bounded(options.get("timeout")),
        )

    def _bounded(self, timeout_s: float | None) -> float | None:
        """The time a request has that asks for so much; None: any time."""
        if timeout_s is not None and not timeout_s > 0:
            raise InvalidRequestError(f"timeout must be more than 0 s, or None, not {timeout_s}")
        bounded = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        return None if bounded == math.inf else bounded


def _checked(lease: Lease, params: SamplingParams) -> SamplingParams:
    """The parameters, with a seed of their own."""
    if params.seed == RANDOM_SEED:
        params = replace(params, seed=secrets.randbelow(RANDOM_SEED))
    problem = _problem(params, lease.vocabulary.n_tokens)
    if problem:
        raise InvalidRequestError(problem)
    try:
        check_params(lease.vocabulary, params)
    except (NativeError, ValueError) as error:
        raise InvalidRequestError(str(error)) from error
    return params


def _problem(params: SamplingParams, n_vocab: int) -> str:
    """What the wire or a worker would refuse; empty if nothing."""
    numbers = {
        "temperature": params.temperature,
        "repeat_penalty": params.repeat_penalty,
        "frequency_penalty": params.frequency_penalty,
        "presence_penalty": params.presence_penalty,
    }
    for name, number in numbers.items():
        if abs(number) > _MAX_FLOAT32:
            return f"{name} is out of range: {number:g}"
    if not -_INT32_END <= params.top_k < _INT32_END:
        return f"top_k is out of range: {params.top_k}"
    if len(params.grammar.encode("utf-8", "replace")) > _MAX_GRAMMAR_BYTES:
        return f"the grammar is longer than {_MAX_GRAMMAR_BYTES} bytes"
    if params.n_top_logprobs and not params.logprobs:
        return "n_top_logprobs needs logprobs"
    if len(params.logit_bias) > n_vocab:
        return "there are more logit biases than tokens in the vocabulary"
    if any(math.isnan(bias) or bias > _MAX_FLOAT32 for _, bias in params.logit_bias):
        return "a logit bias must be a finite number, or -inf to forbid a token"
    return ""


def _stop_strings(stop: Sequence[str]) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(text, str) and text for text in strings):
        raise InvalidRequestError("a stop string must be a text that is not empty")
    return strings
