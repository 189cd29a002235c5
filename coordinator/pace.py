# SPDX-License-Identifier: MIT
"""How long each stage of a line takes for a frame, by its tokens, and what follows from that: how many lanes of decode
frames, and how large the chunks of a prompt. Pure. The scheduler asks it with what frames have taken so far, the
planner's prediction with what the workers' benchmarks say.

A line of S stages that take t(n) seconds for a frame of n tokens, and h seconds a trip beside all computing, gives
each of R sequences one token in `max(L * max(t(R/L)), sum(t(R/L)) + h)` seconds if they share L frames ("lanes"):
either the slowest stage is always busy, or a lane waits for its own return. Where t hardly grows with n, as on GPUs,
one lane is best; where it grows in proportion, one lane for each stage, or one more to hide the trip.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from coordinator.prefill import ChunkTimes, Crowd, StageSeconds, Turns, best_chunk, best_turns

_LANES_BEYOND_STAGES = 1
"""A lane for each stage keeps all busy, one more hides what a trip takes beside computing."""

_WORTH = 0.97
"""More lanes have to save at least 3 %: figures are no better than that."""

_FIXED_TOKENS = 16
"""What a frame costs however few its tokens are, in tokens; until measured. A CPU's figure: it reads the weights."""

_SLOWER = 1.75
"""Times the seconds between a sequence's tokens, while a prompt is computed beside it. Below 2, since they vary."""

_MEMORY = 0.2
"""Of a new observation in the average of its size."""

_DECIDED_FOR = 32
"""Frames until the number of lanes is thought over again."""

_HARDLY_LONGER = 1.5
"""Times a frame of one token: what a frame of guesses may take at most. It is what a sure token waits for that becomes
known behind it."""

_NEARLY = 0.25
"""A frame more is in the line if it is that near: stages differ a little, and figures do."""

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
"""Tokens: frames of about the same size are averaged."""


def cycle_s(n_sequences: int, n_lanes: int, stage_s: StageSeconds, trip_s: float) -> float:
    """Seconds in which each of the sequences gets a token.

    Args:
        n_lanes: Decode frames in the line at a time, at most as many as sequences.
        trip_s: Seconds of a trip beside computing.
    """
    seconds = stage_s(-(-n_sequences // n_lanes))
    return max(n_lanes * max(seconds), sum(seconds) + trip_s)


def best_lanes(n_sequences: int, n_stages: int, stage_s: StageSeconds, trip_s: float) -> int:
    """Over how many decode frames so many sequences are best spread. Fewer, where it makes no difference."""
    best, best_s = 1, cycle_s(n_sequences, 1, stage_s, trip_s)
    for n_lanes in range(2, min(n_sequences, n_stages + _LANES_BEYOND_STAGES) + 1 if n_stages > 1 else 0):
        seconds = cycle_s(n_sequences, n_lanes, stage_s, trip_s)
        if seconds < _WORTH * best_s:
            best, best_s = n_lanes, seconds
    return best


class Pace:
    """What frames take on each stage of one line, as learned from those that came back.

    Args:
        expected: What the benchmarks say; None: nothing is known. Frames correct it, size by size.
    """

    def __init__(self, n_stages: int, expected: StageSeconds | None = None) -> None:
        self.n_stages = n_stages
        self.trip_s = 0.0
        self._expected = expected or self._guessed
        self._chunks = ChunkTimes(n_stages, self._expected)
        self._factors: dict[int, tuple[float, ...]] = {}
        self._sizes: list[int] = []
        self._lanes: dict[int, int] = {}
        self._n_observed = 0

    def _guessed(self, n_tokens: int) -> Sequence[float]:
        return [float(_FIXED_TOKENS + n_tokens)] * self.n_stages

    def observe(self, n_tokens: int, stage_s: Sequence[float], trip_s: float, chunk_at: float | None = None) -> None:
        """A frame came back.

        Args:
            stage_s: Seconds that each stage computed it.
            trip_s: Seconds of its trip beside waiting and computing.
            chunk_at: The position of its tokens on average, if it is a chunk of a prompt.
        """
        if chunk_at is not None:
            self._chunks.observe(n_tokens, chunk_at, stage_s)
            return
        size = _size_of(n_tokens)
        factors = tuple(
            real / max(expected, 1e-9) for real, expected in zip(stage_s, self._expected(n_tokens), strict=True)
        )
        before = self._factors.get(size)
        if before is None:
            bisect.insort(self._sizes, size)
            self._factors[size] = factors
        else:
            self._factors[size] = tuple(_mixed(old, new) for old, new in zip(before, factors, strict=True))
        self.trip_s = _mixed(self.trip_s, trip_s) if self.trip_s else trip_s
        self._n_observed += 1
        if before is None or self._n_observed % _DECIDED_FOR == 0:
            self._lanes.clear()

    def stage_s(self, n_tokens: int) -> Sequence[float]:
        """Seconds that each stage will take for a frame of so many tokens; while nothing is known, in no unit."""
        expected = self._expected(n_tokens)
        if not self._sizes:
            return self._chunks.stage_s(n_tokens, 0) if self._chunks.n_largest else expected
        return [seconds * factor for seconds, factor in zip(expected, self._factors_at(n_tokens), strict=True)]

    def has_seen(self, n_tokens: int) -> bool:
        """Whether a frame of about so many tokens came back."""
        return _size_of(n_tokens) in self._factors

    def n_lanes(self, n_sequences: int) -> int:
        """Decode frames that so many sequences are best spread over."""
        n_lanes = self._lanes.get(n_sequences)
        if n_lanes is None:
            n_lanes = self._lanes[n_sequences] = best_lanes(n_sequences, self.n_stages, self.stage_s, self.trip_s)
        return n_lanes

    def n_chunk(self, n_prompt: int, n_most: int, position: int = 0) -> int:
        """Tokens of the chunks that a prompt, from that position on, is best cut into in a line that is empty."""
        middle = position + n_prompt / 2
        return best_chunk(n_prompt, n_most, self.n_stages, lambda n_tokens: self.chunk_s(n_tokens, middle))

    def chunk_s(self, n_tokens: int, position: float) -> Sequence[float]:
        """Seconds that each stage will take for a chunk whose tokens are at that position on average."""
        return self._chunks.stage_s(n_tokens, position) if self._chunks.n_largest else self.stage_s(n_tokens)

    def turns(self, n_sequences: int, n_most: int, n_least: int, position: int) -> Turns:
        """How chunks of a prompt take turns with the decode frames of so many sequences.

        Args:
            n_most: Tokens of the largest chunk.
            n_least: Tokens of the smallest that is worth it.
            position: Where the next chunk begins.
        """
        lanes_s = cycle_s(n_sequences, self.n_lanes(n_sequences), self.stage_s, self.trip_s)

        def chunk(seconds: float) -> tuple[int, float]:
            n_tokens = self.n_tokens_of_chunk(seconds, n_most, n_least, position)
            return n_tokens, max(self.chunk_s(n_tokens, position + n_tokens / 2))

        crowd = Crowd(n_sequences, self.stage_s, self.trip_s)
        return best_turns(crowd, _SLOWER * lanes_s, self.n_stages, chunk)

    def n_tokens_of_chunk(self, seconds: float, n_most: int, n_least: int, position: int) -> int:
        """Tokens of the largest chunk from that position on that no stage computes longer than that, but not below
        `n_least`, nor above `n_most`."""
        n_least = min(n_least, n_most)
        if self._chunks.n_largest:
            # What larger ones take is a guess, and others would wait for it.
            n_most = min(n_most, max(n_least, 2 * self._chunks.n_largest))
        while n_least < n_most:
            n_tokens = (n_least + n_most + 1) // 2
            if max(self.chunk_s(n_tokens, position + n_tokens / 2)) <= seconds:
                n_least = n_tokens
            else:
                n_most = n_tokens - 1
        return n_least

    def n_tokens_within(self, seconds: float, n_most: int, n_least: int) -> int:
        """Tokens of the largest decode frame that no stage computes longer than that: `n_most`, or that halved some
        times, but not below `n_least`."""
        n_tokens = n_most
        while n_tokens >= 2 * n_least and max(self.stage_s(n_tokens)) > seconds:
            n_tokens //= 2
        return n_tokens

    def n_frames_in_line(self, n_tokens: int) -> int:
        """Frames of so many tokens that keep the slowest stage busy, if another goes as soon as one is back."""
        seconds = self.stage_s(n_tokens)
        return max(1, int((sum(seconds) + self.trip_s) / max(*seconds, 1e-9) + _NEARLY))

    def n_tokens_ahead(self, n_most: int) -> int:
        """Tokens of the largest frame that hardly takes longer than one of a single token."""
        return self.n_tokens_within(_HARDLY_LONGER * max(self.stage_s(1)), n_most, 1)

    def _factors_at(self, n_tokens: int) -> Sequence[float]:
        """Between the two sizes that were seen on either side, or those of the nearest."""
        end = bisect.bisect_left(self._sizes, n_tokens)
        low, high = self._sizes[max(0, end - 1)], self._sizes[min(end, len(self._sizes) - 1)]
        if low == high:
            return self._factors[low]
        share = (n_tokens - low) / (high - low)
        return [a + share * (b - a) for a, b in zip(self._factors[low], self._factors[high], strict=True)]


def _size_of(n_tokens: int) -> int:
    return _SIZES[min(bisect.bisect_left(_SIZES, n_tokens), len(_SIZES) - 1)]


def _mixed(old: float, new: float) -> float:
    return old + _MEMORY * (new - old)
