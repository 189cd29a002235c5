# SPDX-License-Identifier: MIT
"""One request as the scheduler sees it, and the bounds of the session it runs in. Plain state; the scheduler changes
it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from coordinator.drafting import Lookup
from coordinator.frames import Request
from coordinator.offers import Offers
from native import Pooling


@dataclass(frozen=True, slots=True)
class EmbeddingLimits:
    """How a session embeds.

    Attributes:
        n_frame: Tokens of a frame that embeds, at most: what llama.cpp computes at once.
        n_input: Tokens of one input, at most.
        is_stateless: The model has no cache, so that several inputs can go together whatever they are.
    """

    pooling: Pooling
    n_frame: int
    n_input: int
    is_stateless: bool = False

    @property
    def of_each_token(self) -> bool:
        """Whether there is a vector for each token, not one for each input."""
        return self.pooling is Pooling.NONE

    @property
    def remedy(self) -> str:
        """Against inputs that are too long, behind "or"."""
        what = "ubatch" if self.n_input == self.n_frame else "context"
        return f"start with a larger --{what}, as far as the model was trained for it"


NOT_KNOWN = -1
"""In the place of a token that is sampled just now, and goes straight from the last stage to the first."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the session was loaded for.

    Attributes:
        n_slots: Parallel sequences.
        n_batch: Tokens per frame.
        n_ctx: Tokens per sequence.
        n_stages: Stages of the line.
        n_waiting: Requests that may wait for a slot.
        n_ubatch: Tokens that llama.cpp computes at once; None: a whole frame.
        can_forget_part: Whether the model's memory can forget the end of a sequence.
        n_drafts: Tokens guessed at a time, at most; 0: none.
        has_draft_model: Whether a draft model guesses; else what the texts themselves repeat.
        shifts: Whether a sequence whose context is full goes on without some of its tokens; else it ends there.
        runs_ahead: Whether its guesses go as they come, without waiting for the verdict on those before. Without, which
            is for measuring what that is worth, a token waits until its guesses can go with it.
        embedding: How it embeds; None: it does not.
    """

    n_slots: int
    n_batch: int
    n_ctx: int
    n_stages: int
    n_waiting: int
    n_ubatch: int | None = None
    can_forget_part: bool = True
    n_drafts: int = 0
    has_draft_model: bool = False
    shifts: bool = False
    runs_ahead: bool = True
    embedding: EmbeddingLimits | None = None

    def with_stages(self, n_stages: int) -> Limits:
        """The same for a line of so many."""
        return replace(self, n_stages=n_stages)

    def __post_init__(self) -> None:
        if self.n_batch < self.n_slots:
            raise ValueError(f"a batch of {self.n_batch} cannot carry one token of each of {self.n_slots} sequences")
        if min(self.n_slots, self.n_ctx, self.n_stages) < 1 or self.n_waiting < 0:
            raise ValueError(f"limits must be positive: {self}")


class Phase(Enum):
    WAITING = auto()
    PREFILL = auto()
    DECODE = auto()
    ENDED = auto()


class RunningSequence:
    """A request on its way.

    Attributes:
        text: Its prompt and what was sampled, without what went when its context was full: what its slot is to hold,
            and one token more when that is known.
        generated: All that was sampled.
        cached: What its slot holds when all that was sent is computed: the text but for its last token, or the text and
            what follows it, guessed or NOT_KNOWN. The number of these tokens is the next one's position.
        n_wrong: Guesses that turned out wrong, each of which made void what was sent after it.
        is_ready: It has a token to decode that was not sent.
        is_resumed: It was begun in another line, which broke.
        is_paused: Its reader is behind: nothing more of it is sent.
        offers: Of the draft model, if there is one.
        n_drafted: Guesses that were sent.
        n_wanted: Guesses beyond the text that it was asked for.
    """

    __slots__ = (
        "cached",
        "drafted",
        "generated",
        "is_paused",
        "is_ready",
        "is_resumed",
        "lookup",
        "n_chunk",
        "n_drafted",
        "n_reused",
        "n_wanted",
        "n_wrong",
        "offers",
        "phase",
        "request",
        "slot",
        "text",
    )

    def __init__(self, request: Request, text: list[int], generated: Sequence[int] = ()) -> None:
        """`generated`: what was sampled of it before; `text` has what is left of that."""
        self.request = request
        self.phase = Phase.WAITING
        self.slot = -1
        self.text = text
        self.generated = list(generated)
        self.cached: list[int] = []
        self.n_reused = 0
        self.n_chunk = 0
        self.n_wrong = 0
        self.is_ready = False
        self.is_paused = False
        self.is_resumed = False
        self.lookup: Lookup | None = None
        self.offers: Offers | None = None
        self.n_wanted = self.n_drafted = 0
        # The class of the guesses in flight and where they begin in the text, for each frame.
        self.drafted: deque[Drafted] = deque()

    def restart(self, cached: list[int]) -> None:
        """It is to be prefilled again, into an empty slot; guesses in flight are forgotten.

        Args:
            cached: Its slot's, empty.
        """
        self.is_resumed = self.is_resumed or self.n_chunk > 0
        self.phase, self.cached = Phase.PREFILL, cached
        self.n_reused = self.n_chunk = 0
        self.is_ready = False
        self.drafted.clear()

    @property
    def is_prefilling(self) -> bool:
        """Frames of its prompt were sent, and its first token has not come."""
        return self.phase is Phase.PREFILL and self.n_chunk > 0

    @property
    def to_prefill(self) -> Sequence[int]:
        """What is computed before its next token is decoded: its prompt, whose last token the first one is sampled
        after; where some were sampled before the line broke, all but the last."""
        return self.text[:-1] if self.n_generated else self.request.prompt

    @property
    def n_generated(self) -> int:
        """Tokens sampled."""
        return len(self.generated)

    @property
    def n_unsure(self) -> int:
        """Tokens sent that are not known to be right."""
        return max(0, len(self.cached) - len(self.text))


@dataclass(slots=True)
class Drafted:
    """Guesses of one frame: positions [start, end) of the text, after a match of so many tokens (None: a model's)."""

    start: int
    end: int
    n_matched: int | None
