# SPDX-License-Identifier: MIT
"""What passes between the session, the scheduler and the line: requests in, frames out, rows back, outcomes. Plain
values; the rows and frames of the hot path are not frozen, which would cost a microsecond a field.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.generation import FinishReason
from native import SamplingParams


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request.

    Attributes:
        id: Unique in the session.
        prompt: At least one token, fewer than the context holds.
        max_tokens: At least 1; with the prompt no more than the context holds.
    """

    id: int
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class Start:
    """A sequence that begins with this frame: its slot gets a fresh sampler."""

    seq_id: int
    request: Request


@dataclass(slots=True)
class PlannedFrame:
    """What to send, in the contract's order: first the removals, then the starts, then the batch.

    Attributes:
        number: 1, 2, 3 and so on.
        removals: Sequences whose cache and sampler are dropped on every stage.
        outputs: Rows of the batch to sample, ascending.
    """

    number: int
    removals: list[int] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    seq_ids: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)


@dataclass(slots=True)
class SampledRow:
    """What the line says about one output row: a token, or why there is none."""

    seq_id: int
    token: int | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    error: str = ""


@dataclass(slots=True)
class LineResult:
    """What the line says about one frame.

    Attributes:
        stage_s: Seconds that each stage computed it, in line order.
    """

    number: int
    rows: list[SampledRow]
    stage_s: tuple[float, ...] = ()


@dataclass(slots=True)
class Outcome:
    """What a result means for one request.

    Attributes:
        row: Token to deliver; an end-of-generation token comes with `finish`, and is not part of the text.
        finish: Why the request ended with this row; None if it goes on or failed.
        failed: Why it failed; empty if it did not.
        is_end: The token is an end-of-generation token.
    """

    request_id: int
    row: SampledRow
    finish: FinishReason | None = None
    failed: str = ""
    is_end: bool = False
