# SPDX-License-Identifier: MIT
"""Whose turn it is, of a prompt's chunks and the decode frames of running sequences; and how large the next chunk is.
The scheduler's; pure. What is best is of `pace` and `prefill`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from coordinator.pace import Pace
from coordinator.prefill import Turns
from coordinator.sequence import Limits, RunningSequence

_BUSY_CHUNK = 4
"""Tokens of the smallest chunk that goes between decode frames."""

_WHOLE = 0.999
"""Of a chunk that is due after so many decode frames: what thirds add up to."""


class Prompt(Protocol):
    """What is to be computed beside the decode frames: `cached` is what was sent of it."""

    @property
    def cached(self) -> Sequence[int]: ...


class TurnTaking:
    """Of one line."""

    def __init__(self, limits: Limits, pace: Pace) -> None:
        self._pace = pace
        # A line of one stage gains nothing from smaller chunks.
        self._n_largest = limits.n_batch
        if limits.n_stages > 1:
            self._n_largest = min(limits.n_batch, limits.n_ubatch or limits.n_batch)
        self._turns: Turns | None = None
        self._turns_for = 0
        self._n_due = 0.0

    def n_lanes(self, n_decoding: int, prompts: Sequence[Prompt]) -> int:
        """Decode frames that so many sequences are spread over, while these prompts are to be computed."""
        return self._now(n_decoding, prompts).n_lanes if prompts else self._pace.n_lanes(n_decoding)

    def note_lane(self, n_decoding: int, prompts: Sequence[Prompt]) -> None:
        """A decode frame was sent."""
        if prompts:
            turns = self._now(n_decoding, prompts)
            self._n_due = min(turns.n_chunks, self._n_due + turns.n_chunks / turns.n_lanes)

    def note_ahead(self) -> None:
        """A decode frame was sent before its turn: the prompt that comes next goes right after it."""
        self._n_due = 1.0

    def is_chunk_due(self, n_decoding: int) -> bool:
        """Whether a chunk may go, as far as decode frames are concerned."""
        return not n_decoding or self._n_due >= _WHOLE

    def n_chunk(self, sequence: RunningSequence, n_prompt: int, n_decoding: int) -> int:
        """Tokens of the next chunk of a sequence whose prompt has so many; fewer while others decode."""
        start = len(sequence.cached)
        if not sequence.n_chunk:
            sequence.n_chunk = self._pace.n_chunk(n_prompt - start, self._n_largest, start)
        if not n_decoding:
            return sequence.n_chunk
        seconds = self._now(n_decoding, [sequence]).chunk_s
        return self._pace.n_tokens_of_chunk(seconds, sequence.n_chunk, _BUSY_CHUNK, start)

    def note_chunk(self) -> None:
        """A chunk was sent."""
        self._n_due = max(0.0, self._n_due - 1)
        self._turns = None

    def note_uncut(self, n_tokens: int, n_decoding: int, prompt: Prompt) -> None:
        """A frame of so many tokens was sent, which could not be cut as a chunk is: the next one is due when the decode
        frames have had what they would have had beside so many chunks.

        Args:
            prompt: That it was of.
        """
        n_chunks = 1.0
        if n_decoding:
            seconds = self._now(n_decoding, [prompt]).chunk_s
            n_chunks = n_tokens / self._pace.n_tokens_of_chunk(seconds, self._n_largest, _BUSY_CHUNK, 0)
        self.note_chunk()
        self._n_due -= max(0.0, n_chunks - 1)

    def _now(self, n_decoding: int, prompts: Sequence[Prompt]) -> Turns:
        """How the next chunk takes turns with the frames of so many sequences."""
        if self._turns is None or self._turns_for != n_decoding:
            start = len(prompts[0].cached)
            self._turns = self._pace.turns(n_decoding, self._n_largest, _BUSY_CHUNK, start)
            self._turns_for = n_decoding
        return self._turns
