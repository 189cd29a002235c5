# SPDX-License-Identifier: MIT
"""What has come of a session's requests and frames since it was opened: counts that only grow, for `/metrics`. The
session and its requests write it, on their event loop; it outlives the lines that the session has one after the other.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from coordinator.frame_log import FrameRecord

_WAITS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""From what a short prompt takes to what common clients give up after."""

_TOKENS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""From a small model on one device to a large one over Wi-Fi, and pauses while a line is laid again."""

FAILED = "failed"
"""How a request ended that has no `FinishReason`."""


class Histogram:
    """How long things took, in seconds.

    Attributes:
        bounds: Ascending.
        counts: How many took up to each bound and more than the one before; the last: more than all of them.
        total_s: Of all.
    """

    __slots__ = ("bounds", "counts", "total_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total_s = 0.0

    def note(self, seconds: float) -> None:
        """One took so long."""
        self.counts[bisect.bisect_left(self.bounds, seconds)] += 1
        self.total_s += seconds


@dataclass(slots=True)
class StageTally:
    """What one worker did, in whatever lines.

    Attributes:
        n_tokens: In the batches of its frames.
        busy_s: It computed.
        waiting_s: Frames had arrived and waited for it; two that wait for a second count as two.
        sent_bytes: Of hidden state, handed to the next worker.
    """

    n_frames: int = 0
    n_tokens: int = 0
    busy_s: float = 0.0
    waiting_s: float = 0.0
    sent_bytes: int = 0


@dataclass(slots=True)
class Tally:
    """Counts of one session.

    Attributes:
        n_generated: Tokens that requests got.
        n_guesses: Tokens that were sent down the line as guesses.
        n_guesses_right: Of these, those that turned out right.
        n_decode_frames: Frames with sampled tokens that came back.
        n_prefill_frames: Those with a piece of a prompt.
        ended: Requests by how they ended: a `FinishReason`'s word, or FAILED.
        queued: From a request's submission to its first frame.
        first_token: From its submission to its first token.
        next_token: From each token of a request to the next; 0 between tokens that came with one frame.
        stages: By the worker's name.
    """

    n_generated: int = 0
    n_guesses: int = 0
    n_guesses_right: int = 0
    n_decode_frames: int = 0
    n_prefill_frames: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    queued: Histogram = field(default_factory=lambda: Histogram(_WAITS_S))
    first_token: Histogram = field(default_factory=lambda: Histogram(_WAITS_S))
    next_token: Histogram = field(default_factory=lambda: Histogram(_TOKENS_S))
    stages: dict[str, StageTally] = field(default_factory=dict)
    _line: list[StageTally] = field(default_factory=list)

    def begin_line(self, workers: Sequence[str]) -> None:
        """Frames go through these workers from now on."""
        self._line = [self.stages.setdefault(name, StageTally()) for name in workers]

    def note_frame(self, frame: FrameRecord) -> None:
        """A frame came back."""
        self.n_guesses += frame.n_guesses
        if frame.is_decode:
            self.n_decode_frames += 1
        elif frame.n_tokens:
            self.n_prefill_frames += 1
        for stage, time in zip(self._line, frame.stages, strict=True):
            stage.n_frames += 1
            stage.n_tokens += frame.n_tokens
            stage.busy_s += time.computed_s
            stage.waiting_s += time.waited_s
            stage.sent_bytes += time.sent_bytes

    def note_token(self, *, was_guessed: bool) -> None:
        """A request got one."""
        self.n_generated += 1
        self.n_guesses_right += was_guessed
