# SPDX-License-Identifier: MIT
"""What a mesh can be asked for when it is opened: values, their meanings and defaults, and the checks that need no
worker.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from coordinator.errors import PlanError
from coordinator.search import Objective
from coordinator.wishes import Distribution, Wishes
from native import ContextParams, FlashAttention, LayerRange, ModelLayout, Pooling, check_embeds

_DEFAULT_CONTEXT = 4096
"""Tokens per sequence unless asked otherwise: models trained for 128 k would claim gigabytes of cache."""

NO_DRAFT, LOOKUP = "off", "lookup"
"""What is no model, where it is said what tokens are guessed with."""

N_DRAFTS = 16
"""Tokens guessed at a time, at most."""

LEAST_WORKER_TIMEOUT_S = 1.0
"""Workers are asked every second whether they are there."""

_DEFAULT_UBATCH = 512
"""llama.cpp's own."""

_PLAIN_KV_TYPES = ("f32", "f16", "bf16")
"""Those that are not quantised."""

_ENCODER_SEQUENCES = 64
"""Inputs that a model without a cache embeds together: a frame of 512 tokens seldom holds more."""

_MAX_CONTEXT = 1 << 24
"""Tokens of all sequences together that workers accept; llama.cpp counts them in 32 bits."""


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """How to open a mesh.

    Attributes:
        model: Path of a GGUF file, "https://...", "hf:OWNER/REPO[:QUANT or FILE]", "ollama:NAME", or "demo".
        workers: Addresses, ``host:port``, of workers to use; one that cannot take part is an error.
        insecure_workers: Whether workers beyond this machine may be used that are members of no cluster, so that
            anybody may be them, and read along; whatever cluster this machine is in, members are not used then.
        discover: Whether to look for others by mDNS; one that cannot take part is left out.
        discovery_timeout_s: How long to look, in seconds.
        local_workers: If there are no workers, start so many here, for this mesh alone; 0: never.
        only: Names of the workers that may take part; empty: all.
        exclude: Names of workers that may not.
        distribution: Over as many devices as it pays, over all of them, or over one.
        objective: What the plan makes fast: one stream (latency), or the slowest stage (throughput).
        max_stages: Of a line, at most; None: any number.
        replicas: How many lines the model is laid over, each a whole; None: as many as find room. Each has `parallel`
            slots, and a request goes to the one with the least to do.
        layer_ranges: Half-open layer ranges for the workers in order (those given by address first, then the others by
            name) instead of the planner's choice.
        pinned: Half-open layer ranges of some workers, by name; the planner lays out the rest.
        main: The name of the worker that has the output layer and samples; with `Distribution.OFF` the only one.
        gpu_layers: So many layers, the last ones, lie on GPU workers and all others on CPU workers; the output layer
            goes with the last. 0: none on GPUs. None: the planner's choice.
        context: Tokens per sequence; None: what the model was trained for, at most 4096.
        parallel: Sequences at a time.
        batch: Tokens per frame, at most; long prompts are cut into so many.
        ubatch: Tokens that llama.cpp computes at once, at most; None: llama.cpp's 512.
        kv_type_k: ggml type of cached keys.
        kv_type_v: ggml type of cached values.
        flash_attention: llama.cpp's switch. Off, as llama-cpp-python has it, so that the text is the same to the
            letter: it computes otherwise in the third digit. On, long contexts take less memory.
        queue: Requests that may wait for a slot; beyond that OverloadedError.
        context_shift: Whether a request goes on when its context is full, without half of the tokens after its first
            `n_keep`; else it ends there.
        draft: What tokens are guessed with, so that one trip down the line can bring several: "lookup" (what the text,
            or one before it, went on with after the same words), a small model with the same vocabulary (named as
            `model` is), which runs on this machine, or "off". The text is the same either way.
        draft_on: The name of a worker that a draft model runs on instead, beside its stage of the line if it has one.
        draft_device: Where a draft model lies, as `caravan doctor` names devices; None: the CPU.
        draft_threads: Of a draft model on the CPU; None: half of the cores.
        embeddings: Whether it embeds texts as well (`Mesh.embed`). Models that were made for that do in any case; any
            other takes memory for it on its last worker: for each of `ubatch` tokens as many numbers as its vocabulary
            has tokens.
        pooling: What an embedding is made of; says that there are to be some. None: what the model was made with, else
            its last token.
        client_limit: Requests that one client may have, running and waiting; beyond that ClientLimitError. None: any
            number.
        request_timeout: How long a request may take from its submission, in seconds, whatever it asks for itself;
            beyond that DeadlineError. None: any time.
        worker_timeout: How long a worker may be silent while it is needed, in seconds, before it counts as lost.
        recovery_timeout: How long requests wait, in seconds, when a worker was lost and those that are left cannot hold
            the model; then they fail. 0: they do at once.
        rejoin: Whether a worker that comes back or is new is taken into a line that serves, where that makes it much
            better; else only when the line breaks.
        predicted: Whether speed is measured, and predicted, also where nothing depends on it: with one worker, or with
            layer ranges by hand.
        max_bandwidth: Bytes per second at which each worker may fetch weights, from all sources together; None: no
            limit.
    """

    model: str | Path
    workers: Sequence[str] = ()
    insecure_workers: bool = False
    discover: bool = True
    discovery_timeout_s: float = 2.0
    local_workers: int = 0
    only: Collection[str] = ()
    exclude: Collection[str] = ()
    distribution: Distribution = Distribution.AUTO
    objective: Objective = Objective.LATENCY
    max_stages: int | None = None
    replicas: int | None = 1
    layer_ranges: Sequence[LayerRange] | None = None
    pinned: Mapping[str, LayerRange] = field(default_factory=dict)
    main: str | None = None
    gpu_layers: int | None = None
    context: int | None = None
    parallel: int = 4
    batch: int = 512
    ubatch: int | None = None
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    flash_attention: FlashAttention = FlashAttention.OFF
    queue: int = 64
    context_shift: bool = False
    draft: str | Path = NO_DRAFT
    draft_on: str | None = None
    draft_device: str | None = None
    draft_threads: int | None = None
    embeddings: bool = False
    pooling: Pooling | None = None
    client_limit: int | None = None
    request_timeout: float | None = None
    worker_timeout: float = 5.0
    recovery_timeout: float = 120.0
    rejoin: bool = True
    predicted: bool = False
    max_bandwidth: int | None = None

    def wants(self, name: str) -> bool:
        """Whether a worker of that name may take part."""
        return name not in self.exclude and (not self.only or name in self.only)

    @property
    def draft_model(self) -> str | Path | None:
        """What to draft with, if it is a model."""
        return None if self.draft in (NO_DRAFT, LOOKUP) else self.draft

    @property
    def wishes(self) -> Wishes:
        """What is asked of the plan.

        Raises:
            PlanError: It contradicts itself.
        """
        contradiction = self._contradiction()
        if contradiction is not None:
            raise PlanError(contradiction)
        return Wishes(
            self.distribution,
            self.objective,
            None if self.layer_ranges is None else tuple(self.layer_ranges),
            dict(self.pinned),
            self.max_stages,
            self.replicas,
            self.main,
            self.gpu_layers,
        )

    def _contradiction(self) -> str | None:
        """Why the plan cannot be as it is asked to be; None if that is not known before there are workers."""
        if self.layer_ranges is not None and self.pinned:
            return "layer ranges are given either in the order of the workers, or by their names"
        if (self.max_stages is not None and self.max_stages < 1) or (self.replicas is not None and self.replicas < 1):
            return "there is at least one line, and a line has at least one stage"
        if self.replicas != 1 and (self.layer_ranges is not None or self.pinned):
            return "layer ranges by hand are for one line: give them, or replicas"
        if self.replicas != 1 and self.main is not None:
            return f"{self.main} can be the main device of one line only: leave out either main or replicas"
        if self.draft_on is not None and self.draft_model is None:
            return (
                f"there is no draft model for {self.draft_on} to run: name one (--draft MODEL), or leave out draft_on"
            )
        if self.draft_on is not None and (self.draft_device is not None or self.draft_threads is not None):
            return "draft_device and draft_threads are of a draft model on this machine: leave them out, or draft_on"
        if self.draft_on is not None and self.replicas != 1:
            return "a draft model on a worker is for one line: leave out either draft_on or replicas"
        if self.gpu_layers is not None and self.gpu_layers < 0:
            return f"{self.gpu_layers} layers cannot lie on GPUs: give 0 or more"
        if self.gpu_layers is not None and self.layer_ranges is not None:
            return "layer ranges by hand say already which layers lie on GPUs: leave out gpu_layers"
        return None

    def params_for(self, layout: ModelLayout) -> ContextParams:
        """The parameters that every stage's context of this model gets.

        Raises:
            PlanError: They cannot be.
            native.UnsupportedModelError: Embeddings are asked of a model that makes none.
        """
        params = replace(self.context_params(layout.n_ctx_train), pooling=self._pooling_of(layout))
        if params.pooling is not None:
            check_embeds(layout, params.pooling)
        if layout.writes:
            return params
        if self.draft != NO_DRAFT or self.context_shift:
            raise PlanError(f"{layout.name} makes embeddings and no text: leave out --draft and --context-shift")
        # An input is computed at once, so batch and ubatch are one size, whichever of them was asked for.
        n_ctx = params.n_ctx_seq
        if layout.is_encoder:
            n_ctx = layout.n_ctx_train if self.context is None else self.context
            if n_ctx > layout.n_ctx_train:
                raise PlanError(f"{layout.name} was made for texts of {layout.n_ctx_train} tokens, not {n_ctx}")
        n_batch = min(n_ctx, max(self.ubatch or self.batch, self.parallel))
        n_seq_max = max(self.parallel, min(n_batch, _ENCODER_SEQUENCES)) if layout.is_encoder else self.parallel
        return replace(params, n_ctx_seq=n_ctx, n_batch=n_batch, n_ubatch=n_batch, n_seq_max=n_seq_max)

    def _pooling_of(self, layout: ModelLayout) -> Pooling | None:
        """None: no embeddings. A model that was made to write has its last token for one, as vLLM and Ollama have it:
        the only one that has read all of the text."""
        if self.pooling is not None:
            return self.pooling
        return layout.default_pooling or (Pooling.LAST if self.embeddings else None)

    def context_params(self, n_ctx_train: int) -> ContextParams:
        """The parameters that a context gets whatever the model is.

        Raises:
            PlanError: They cannot be.
        """
        n_ctx = self.context if self.context is not None else min(n_ctx_train, _DEFAULT_CONTEXT)
        n_batch = min(self.batch, n_ctx)
        if n_ctx * self.parallel > _MAX_CONTEXT:
            raise PlanError(
                f"{self.parallel} sequences of {n_ctx} tokens are too much; {_MAX_CONTEXT} together at most"
            )
        if n_batch < self.parallel:
            raise PlanError(
                f"{self.parallel} sequences in parallel need a context and a batch of at least so many tokens, "
                f"not {n_ctx} and {self.batch}"
            )
        if self.max_bandwidth is not None and self.max_bandwidth < 1:
            raise PlanError("a bandwidth of less than a byte per second lets nothing through")
        if self.draft_threads is not None and self.draft_threads < 1:
            raise PlanError(f"a draft model cannot run on {self.draft_threads} threads: give 1 or more")
        if self.queue < 0 or self.local_workers < 0:
            raise PlanError("the queue and the number of local workers cannot be negative")
        if self.client_limit is not None and self.client_limit < 1:
            raise PlanError(f"a client_limit of {self.client_limit} lets nobody in: give at least 1, or None")
        if self.request_timeout is not None and not 0 < self.request_timeout < math.inf:
            raise PlanError(f"a request_timeout of {self.request_timeout} s lets nothing finish: give more than 0")
        if not LEAST_WORKER_TIMEOUT_S <= self.worker_timeout < math.inf or not 0 <= self.recovery_timeout < math.inf:
            raise PlanError(
                f"a worker_timeout of {self.worker_timeout} s or a recovery_timeout of {self.recovery_timeout} s "
                f"cannot be: give at least {LEAST_WORKER_TIMEOUT_S:g} s for the first, and 0 or more for the second"
            )
        try:
            params = ContextParams(
                n_ctx_seq=n_ctx,
                n_seq_max=self.parallel,
                n_batch=n_batch,
                n_ubatch=min(_DEFAULT_UBATCH if self.ubatch is None else self.ubatch, n_batch),
                kv_type_k=self.kv_type_k,
                kv_type_v=self.kv_type_v,
                flash_attention=self.flash_attention,
            )
        except ValueError as error:
            raise PlanError(str(error)) from error
        if self.kv_type_v not in _PLAIN_KV_TYPES and self.flash_attention is FlashAttention.OFF:
            raise PlanError(
                f"llama.cpp can use cached values of type {self.kv_type_v} only in flash attention: switch that on "
                "(--flash-attention on), or take f16"
            )
        return params
