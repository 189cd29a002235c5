# SPDX-License-Identifier: MIT
"""A request as its session sees it: the stream it fills, its text, its times, and the timers that may end it. Used on
the session's event loop only.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from coordinator.generation import TokenStream, Usage
from coordinator.text import TextStream


@dataclass(slots=True)
class RunningRequest:
    """A request that waits or runs.

    Attributes:
        visible: Control tokens that are text of its answer.
        deadline: Ends it when its time is over; None: it may take any time.
        patience: Runs while it is paused.
        n_breaks: Lines that broke while frames of it were in them, since it had a token last, and not at a link.
        n_link_breaks: The same for those that broke at a link.
        n_at_break: Its tokens and vectors when the last one did.
        n_vectors: Inputs that have their vectors, of a request for embeddings.
        is_stuck: It has been paused for so long that others may have its slot.
    """

    stream: TokenStream
    text: TextStream
    submitted_s: float
    started_s: float = 0.0
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    n_tokens: int = 0
    n_reused: int = 0
    n_guessed: int = 0
    n_drafted: int = 0
    deadline: asyncio.TimerHandle | None = None
    patience: asyncio.TimerHandle | None = None
    is_stuck: bool = False
    n_breaks: int = 0
    n_link_breaks: int = 0
    n_at_break: int = 0
    n_vectors: int = 0
    visible: tuple[int, ...] = ()

    def note_break(self, *, is_of_link: bool) -> None:
        """The line broke while frames of it were in it."""
        n_now = self.n_tokens + self.n_vectors
        if n_now != self.n_at_break:
            self.n_breaks = self.n_link_breaks = 0
        self.n_breaks += not is_of_link
        self.n_link_breaks += is_of_link
        self.n_at_break = n_now

    def usage(self, now_s: float) -> Usage:
        """What it took until now."""
        started_s = self.started_s or now_s
        first_s = self.first_token_s or now_s
        return Usage(
            prompt_tokens=len(self.stream.prompt_tokens),
            completion_tokens=self.n_tokens,
            cached_tokens=self.n_reused,
            guessed_tokens=self.n_guessed,
            drafted_tokens=self.n_drafted,
            queued_s=started_s - self.submitted_s,
            prefill_s=first_s - started_s,
            decode_s=now_s - first_s,
        )

    def usage_so_far(self) -> Usage:
        """What it took until its last token."""
        return self.usage(self.last_token_s or time.monotonic())

    def stop_timers(self) -> None:
        """It has ended."""
        for timer in (self.deadline, self.patience):
            if timer is not None:
                timer.cancel()
