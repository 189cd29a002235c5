# SPDX-License-Identifier: MIT
"""What passes between the session, the scheduler and the line: requests in, frames out, rows back, outcomes. Plain
values; the rows and frames of the hot path are not frozen, which would cost a microsecond a field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from coordinator.generation import FinishReason
from native import SamplingParams


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request.

    Attributes:
        id: Unique in the session.
        prompt: At least one token, fewer than the context holds.
        max_tokens: At least 1; with the prompt no more than the context holds, where that does not shift.
        reuse: Whether what is cached of other sequences may serve it.
        client: Whose it is; among clients, slots are shared fairly.
        priority: Who waits is served from the lowest up.
        n_keep: Tokens at its beginning that stay where a full context shifts.
        tells_progress: Whether to tell how much of its prompt is computed.
    """

    id: int
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams
    reuse: bool = True
    client: str = ""
    priority: int = 0
    n_keep: int = 0
    tells_progress: bool = False


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A checked request for embeddings.

    Attributes:
        id: Unique in the session.
        inputs: At least one, each of at least one token, and no longer than the session can embed.
        client: As of a Request.
        priority: As of a Request.
    """

    id: int
    inputs: tuple[tuple[int, ...], ...]
    client: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Remove:
    """Forgets positions [start, end) of a sequence in every stage's cache; None: to its end."""

    seq_id: int
    start: int = 0
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """Gives `target`, which is empty, all that `source` has, in every stage's cache."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Shift:
    """Moves a sequence's positions from `start` on by `delta`, in every stage's cache."""

    seq_id: int
    start: int
    delta: int


CacheOperation = Remove | Copy | Shift


@dataclass(frozen=True, slots=True)
class Start:
    """A sequence that begins with this frame, or goes on in another line: its slot gets a fresh sampler.

    Attributes:
        n_reused: Tokens of its prompt that were in the cache already.
        generated: What was sampled of it before, in a line that broke: its sampler goes on from there.
    """

    seq_id: int
    request: Request
    n_reused: int = 0
    generated: tuple[int, ...] = ()


@dataclass(slots=True)
class PlannedFrame:
    """What to send, in the contract's order: first the operations, then the ends, then the starts, then the batch.

    Attributes:
        number: 1, 2, 3 and so on.
        operations: On every stage's cache, in order.
        ends: Sequences whose samplers are dropped.
        outputs: Rows of the batch to sample, or whose embeddings are wanted, ascending.
        drafts: Those among them whose own token is a guess: sampled only if all guesses up to it were right.
        chained: Rows whose token is what the row before them in their sequence samples; to a draft model alone.
        is_decode: Its tokens are sampled ones; else a piece of a prompt.
        follows: The number of a frame that `returns` its token, which is this one's; 0: none.
        returns: What its only row samples goes from the last stage straight to the first one, too.
        is_embedding: Its tokens are inputs to be embedded.
    """

    number: int
    operations: list[CacheOperation] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    seq_ids: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)
    chained: Sequence[int] = ()
    is_decode: bool = False
    follows: int = 0
    returns: bool = False
    is_embedding: bool = False


@dataclass(slots=True)
class SampledRow:
    """What the line says about one output row: a token, or the bytes of an embedding, or why there is none. Neither: a
    guess that came after a wrong one."""

    seq_id: int
    token: int | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    error: str = ""
    embedding: bytes = b""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """So many tokens of a request's prompt are in the cache."""

    request_id: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vector of an input, or those of its tokens, as float32 one after the other; `index`: the input's place."""

    index: int
    vector: bytes


@dataclass(frozen=True, slots=True)
class StageTime:
    """What one stage did with one frame, times in seconds of its own clock.

    Attributes:
        waited_s: From its arrival until it was computed.
        computed_s: While it was computed.
        held_s: From then until it was sent on.
        sent_bytes: Of hidden state, handed to the next stage; 0 from the last one.
    """

    waited_s: float
    computed_s: float
    held_s: float = 0.0
    sent_bytes: int = 0


@dataclass(slots=True)
class LineResult:
    """What the line says about one frame.

    Attributes:
        stages: In line order.
        can_return: Frames may return their tokens from now on.
    """

    number: int
    rows: list[SampledRow]
    stages: tuple[StageTime, ...] = ()
    can_return: bool = False


@dataclass(slots=True)
class Outcome:
    """What a result means for one request.

    Attributes:
        row: Token to deliver; an end-of-generation token comes with `finish`, and is not part of the text.
        finish: Why the request ended with this row; None if it goes on or failed.
        failed: Why it failed; empty if it did not.
        is_end: The token is an end-of-generation token.
        was_guessed: The token was in the line before it was sampled.
        n_drafted: Tokens that were guessed for the request until now.
        embedded: There is no token, but an input has its vector.
    """

    request_id: int
    row: SampledRow
    finish: FinishReason | None = None
    failed: str = ""
    is_end: bool = False
    was_guessed: bool = False
    n_drafted: int = 0
    embedded: Embedded | None = None
