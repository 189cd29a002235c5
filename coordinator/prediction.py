# SPDX-License-Identifier: MIT
"""What a plan will do: seconds per token and tokens per second, from measured devices and links. Pure.

The model of a line: a frame enters at the first stage, is computed by one stage after another and its result comes
back. How many decode frames share the sequences, how large the chunks of a prompt are, and what that takes, is of
`pace`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from coordinator.pace import best_lanes, cycle_s
from coordinator.prefill import best_chunk, prefill_s
from coordinator.speed import Curve, Speed
from coordinator.workers import Link
from native import LayerRange

COORDINATOR = ""
"""Its name as an end of a link."""

PROMPT_TOKENS = 512
"""Of the prompt that time to first token is told for."""

_HIDDEN_STATE_FLOAT_BYTES = 4

_FRAME_SIZES = (1, 4, 16, 64, 128, 256, 512)
"""Tokens: sizes that a running line wants to know the times of."""

STAGE_OVERHEAD_S = 0.0005
"""What a worker does to a decode frame beside computing it: checking, copying, handing it from thread to thread; until
earlier runs there say otherwise. Source: docs/planner.md."""


@dataclass(frozen=True, slots=True)
class Links:
    """The links that were measured, by (from, to); workers by name. One that was not costs as much as the dearest."""

    between: Mapping[tuple[str, str], Link]

    def one_way_s(self, source: str, target: str, n_bytes: int) -> float:
        """From one end to the other; 0 if nothing is known of any link."""
        link = self.between.get((source, target)) or self.between.get((target, source))
        if link is not None:
            return _one_way_s(link, n_bytes)
        return max((_one_way_s(other, n_bytes) for other in self.between.values()), default=0.0)


def _one_way_s(link: Link, n_bytes: int) -> float:
    return link.round_trip_s / 2 + n_bytes / link.bytes_per_s


@dataclass(frozen=True, slots=True)
class PredictedStage:
    """A stage as far as speed goes.

    Attributes:
        experts_from: The experts of layers before this one lie in system memory.
        overhead_s: What it does to a frame beside computing it.
    """

    worker: str
    layers: LayerRange
    speed: Speed
    experts_from: int = 0
    overhead_s: float = STAGE_OVERHEAD_S

    def computes_s(self, n_tokens: int) -> float:
        """Seconds that it computes a frame of so many tokens."""
        return self.speed.stage_s(self.layers, n_tokens, experts_from=self.experts_from)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a line will do.

    Attributes:
        stage_s: Seconds per token of one stream on each stage, in line order.
        computes_s: Of these, those that it computes.
        stage_curves: Seconds of each stage by the tokens of a frame.
        hops_s: Seconds per token of one stream on all links together.
        parallel: How many streams `parallel_tokens_per_s` is for.
        ttft_s: Seconds from a prompt of 512 tokens (or the context, if that is less) to its first token; None where it
            is not known how fast a stage computes a prompt.
    """

    stage_s: tuple[float, ...]
    hops_s: float
    parallel: int
    parallel_tokens_per_s: float
    ttft_s: float | None
    computes_s: tuple[float, ...] = ()
    stage_curves: tuple[Curve, ...] = ()

    def frame_s(self, n_tokens: int) -> tuple[float, ...]:
        """Seconds of each stage for a frame of so many tokens: straight between the sizes that are known."""
        return tuple(curve.at(n_tokens) for curve in self.stage_curves)

    @property
    def token_s(self) -> float:
        """Seconds per token of one stream."""
        return sum(self.stage_s) + self.hops_s

    @property
    def tokens_per_s(self) -> float:
        """Of one stream."""
        return 1 / self.token_s


def hidden_state_bytes(n_embd: int, n_tokens: int) -> int:
    """What crosses a boundary for so many tokens."""
    return _HIDDEN_STATE_FLOAT_BYTES * n_embd * n_tokens


def predict(
    stages: Sequence[PredictedStage],
    links: Links,
    *,
    n_embd: int,
    n_sequences: int,
    n_batch: int,
    n_ctx: int,
    n_ubatch: int | None = None,
) -> Prediction:
    """What these stages will do with so many sequences.

    Args:
        n_batch: Tokens of a frame, at most.
        n_ubatch: Tokens that llama.cpp computes at once, at most; None: a whole frame.
    """

    def stage_s(n_tokens: int) -> list[float]:
        return _stage_seconds(stages, n_tokens)

    trip_s = _hops_s(stages, links, n_embd, n_sequences)
    n_lanes = best_lanes(n_sequences, len(stages), stage_s, trip_s)
    n_prompt = min(PROMPT_TOKENS, n_ctx)
    n_chunk = best_chunk(n_prompt, min(n_batch, n_ubatch or n_batch), len(stages), stage_s)
    sizes = sorted({size for size in _FRAME_SIZES if size <= n_batch} | {1, n_sequences, n_batch})
    return Prediction(
        stage_s=tuple(stage_s(1)),
        hops_s=_round_s(stages, links, n_embd),
        parallel=n_sequences,
        parallel_tokens_per_s=n_sequences / cycle_s(n_sequences, n_lanes, stage_s, trip_s),
        ttft_s=prefill_s(n_prompt, n_chunk, stage_s) + _hops_s(stages, links, n_embd, min(n_prompt, n_chunk)),
        computes_s=tuple(stage.computes_s(1) for stage in stages),
        stage_curves=tuple(
            Curve(tuple(zip(sizes, seconds, strict=True))) for seconds in zip(*map(stage_s, sizes), strict=True)
        ),
    )


def _stage_seconds(stages: Sequence[PredictedStage], n_tokens: int) -> list[float]:
    return [stage.computes_s(n_tokens) + stage.overhead_s for stage in stages]


def _round_s(stages: Sequence[PredictedStage], links: Links, n_embd: int) -> float:
    """From stage to stage and back to the first, as a lone stream's tokens go; of one stage by the coordinator."""
    if len(stages) == 1:
        return _hops_s(stages, links, n_embd, 1)
    first, last = stages[0].worker, stages[-1].worker
    return _between_s(stages, links, n_embd, 1) + links.one_way_s(last, first, 0)


def _hops_s(stages: Sequence[PredictedStage], links: Links, n_embd: int, n_tokens: int) -> float:
    """Into the line, from stage to stage, and back."""
    first, last = stages[0].worker, stages[-1].worker
    between_s = _between_s(stages, links, n_embd, n_tokens)
    return links.one_way_s(COORDINATOR, first, 0) + between_s + links.one_way_s(last, COORDINATOR, 0)


def _between_s(stages: Sequence[PredictedStage], links: Links, n_embd: int, n_tokens: int) -> float:
    n_bytes = hidden_state_bytes(n_embd, n_tokens)
    return sum(links.one_way_s(a.worker, b.worker, n_bytes) for a, b in pairwise(stages))
