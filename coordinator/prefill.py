# SPDX-License-Identifier: MIT
"""Prompts in chunks: how large they are best, what they take where in a text, and how they take turns with decode
frames. Pure; `pace` has what decode frames take, and asks this for the rest.

A line of S stages that take t for each chunk is done with them after their sum and S - 1 times the longest: while the
first chunk goes down the line the stages behind wait, while the last one does those in front. So nothing is gained by
a first or last chunk that is smaller than the others, and chunks of about the same time are best; their number is what
the fixed cost of a chunk is weighed against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

StageSeconds = Callable[[int], Sequence[float]]
"""Seconds of each stage, in line order, for a frame of so many tokens (>= 1)."""

_SMALLEST_CHUNK = 64
"""Tokens. Below, a CPU's products of matrices and a link's round trips both cost more than the overlap gains."""

_MEMORY = 0.05
"""Of a new chunk in what chunks take: about the last twenty count."""

_ABOUT = 1.02
"""Times a round: figures are no better than that."""

_UNSURE_TOKENS = 100.0
"""While chunks were seen within so many positions of each other, it is not believed that time grows with position."""


@dataclass(frozen=True, slots=True)
class Turns:
    """How decode frames and chunks follow each other while both are to be computed.

    Attributes:
        n_lanes: Decode frames that the sequences are spread over.
        n_chunks: Chunks that go for each round of them.
        chunk_s: Seconds that a stage may compute a chunk.
    """

    n_lanes: int
    n_chunks: int
    chunk_s: float


def prefill_s(n_prompt: int, n_chunk: int, stage_s: StageSeconds) -> float:
    """Seconds in which a prompt passes the line, in chunks that follow each other."""
    n_chunk = min(n_chunk, n_prompt)
    chunk = stage_s(n_chunk)
    return sum(chunk) + (-(-n_prompt // n_chunk) - 1) * max(chunk)


def best_chunk(n_prompt: int, n_most: int, n_stages: int, stage_s: StageSeconds) -> int:
    """Tokens of the chunks that a prompt is best cut into: `n_most` (what llama.cpp computes at once), or that halved
    some times. Smaller ones, where it makes no difference: others wait less behind them. A prompt of two smallest
    chunks or less is not cut."""
    best = n_most
    if n_stages == 1 or n_prompt <= 2 * _SMALLEST_CHUNK:
        return best
    best_s, n_chunk = prefill_s(n_prompt, best, stage_s), n_most // 2
    while n_chunk >= _SMALLEST_CHUNK:
        seconds = prefill_s(n_prompt, n_chunk, stage_s)
        if seconds <= best_s:
            best, best_s = n_chunk, seconds
        n_chunk //= 2
    return best


@dataclass(frozen=True, slots=True)
class Crowd:
    """Sequences that decode while a prompt comes.

    Attributes:
        n_sequences: How many.
        stage_s: Of decode frames.
        trip_s: Of a decode frame, beside computing.
    """

    n_sequences: int
    stage_s: StageSeconds
    trip_s: float


def best_turns(crowd: Crowd, round_s: float, n_stages: int, chunk: Callable[[float], tuple[int, float]]) -> Turns:
    """What computes most of a prompt while each of the sequences gets a token every `round_s`, or where nothing does,
    what delays them least.

    In a round each stage computes L decode frames of t seconds and k chunks of c. A decode frame is back for the next
    round if it waits for one chunk at each stage but the first: `t + (S - 1) max(t, c) + trip` seconds. A chunk keeps
    a stage busy as well as another lane does, so fewer and fuller lanes are mostly best then.

    Args:
        chunk: Tokens of the largest chunk that no stage computes for longer than so many seconds, or of the smallest
            there is; and the seconds it takes.
    """
    best, best_rank = Turns(1, 1, 0.0), (False, 0.0)
    for n_lanes in range(1, min(crowd.n_sequences, n_stages + 1) + 1):
        decode_s = max(crowd.stage_s(-(-crowd.n_sequences // n_lanes)))
        alone_s = decode_s + crowd.trip_s
        for n_chunks in range(1, n_stages + 1):
            limit_s = (round_s - n_lanes * decode_s) / n_chunks
            if n_stages > 1:
                limit_s = min(limit_s, (round_s - alone_s) / (n_stages - 1))
            n_tokens, chunk_s = chunk(limit_s)
            waits_s = (n_stages - 1) * max(decode_s, chunk_s)
            takes_s = max(n_lanes * decode_s + n_chunks * chunk_s, alone_s + waits_s)
            is_in_time = takes_s <= _ABOUT * round_s
            rank = is_in_time, n_chunks * n_tokens / takes_s if is_in_time else 1 / takes_s
            if rank > best_rank:
                best, best_rank = Turns(n_lanes, n_chunks, limit_s), rank
    return best


class ChunkTimes:
    """What chunks take, as learned from those that came back: of each stage's expected time a multiple, and more the
    further back in its text the chunk's tokens look.

    Args:
        expected: For a frame of so many tokens; the shape is kept, the scale is learned.

    Attributes:
        n_largest: Tokens of the largest one; 0: none was seen.
    """

    def __init__(self, n_stages: int, expected: StageSeconds) -> None:
        self._expected = expected
        self._fits = [_Fit() for _ in range(n_stages)]
        self.n_largest = 0

    def observe(self, n_tokens: int, position: float, stage_s: Sequence[float]) -> None:
        """A chunk came back.

        Args:
            position: Of its tokens, on average.
            stage_s: Seconds that each stage computed it.
        """
        self.n_largest = max(self.n_largest, n_tokens)
        weights = self._weights(n_tokens)
        for fit, weight, seconds, expected_s in zip(
            self._fits, weights, stage_s, self._expected(n_tokens), strict=True
        ):
            fit.observe(weight * position, seconds / max(expected_s, 1e-9))

    def stage_s(self, n_tokens: int, position: float) -> list[float]:
        """Seconds of each stage for a chunk of so many tokens, whose positions are these on average."""
        weights = self._weights(n_tokens)
        return [
            expected_s * fit.at(weight * position)
            for fit, weight, expected_s in zip(self._fits, weights, self._expected(n_tokens), strict=True)
        ]

    def _weights(self, n_tokens: int) -> list[float]:
        """How much position counts for each stage: a token looks back as far in any chunk, and costs less otherwise in
        larger ones."""
        typical_s, expected_s = self._expected(_SMALLEST_CHUNK), self._expected(n_tokens)
        return [
            n_tokens * typical / max(_SMALLEST_CHUNK * expected, 1e-9)
            for typical, expected in zip(typical_s, expected_s, strict=True)
        ]


class _Fit:
    """A straight line through points (x, y), of which the last ones count most; it does not fall, nor below 0."""

    __slots__ = ("_n", "_x", "_xx", "_xy", "_y")

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def observe(self, x: float, y: float) -> None:
        keep = 1 - _MEMORY
        self._n = keep * self._n + 1
        self._x = keep * self._x + x
        self._y = keep * self._y + y
        self._xx = keep * self._xx + x * x
        self._xy = keep * self._xy + x * y

    def at(self, x: float) -> float:
        mean_x, mean_y = self._x / self._n, self._y / self._n
        spread = max(0.0, self._xx - self._x * mean_x)
        slope = (self._xy - self._x * mean_y) / (spread + _UNSURE_TOKENS**2)
        steepest = mean_y / max(mean_x, 1e-9)
        return mean_y + min(max(0.0, slope), steepest) * (x - mean_x)
