# SPDX-License-Identifier: MIT
"""How long tokens took: what the stages say of frames with one token of one stream, which is what predictions are for.
Pure; the session tells it of every frame, on its event loop.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_MOST = 512
"""Of the last tokens: a text grows, and so does what its tokens take."""


@dataclass(frozen=True, slots=True)
class MeasuredTokens:
    """Medians over some tokens of one stream, with nothing else in the line.

    Attributes:
        n_tokens: How many they were.
        stage_s: Seconds that each stage computed, in line order.
        token_s: Seconds from one token to the next.
    """

    n_tokens: int
    stage_s: tuple[float, ...]
    token_s: float

    @property
    def beside_s(self) -> float:
        """Seconds of a token that no stage computed: hops, and handing frames on."""
        return max(0.0, self.token_s - sum(self.stage_s))


class TokenTimings:
    """Collects them: frames are sent by ascending number from 1, and results come in that order."""

    def __init__(self) -> None:
        self._tokens: deque[tuple[tuple[float, ...], float]] = deque(maxlen=_MOST)
        self._n_received = 0
        self._received_s = 0.0
        self._lone: set[int] = set()
        self._was_lone = False

    def sent(self, number: int, *, is_decode_of_one: bool, follows: int = 0) -> None:
        """A frame goes into the line.

        Args:
            follows: The number of the frame that it waits for.
        """
        if not is_decode_of_one or number - 1 not in (self._n_received, follows):
            self._lone.clear()
        else:
            self._lone.add(number)

    def received(self, number: int, stage_s: Sequence[float], now_s: float) -> None:
        """Its result came back, with the seconds that each stage computed."""
        is_lone = number in self._lone
        if is_lone and self._was_lone:
            self._tokens.append((tuple(stage_s), now_s - self._received_s))
        self._was_lone = is_lone
        self._lone.discard(number)
        self._n_received, self._received_s = number, now_s

    def measured(self) -> MeasuredTokens | None:
        """What was collected; None if nothing was."""
        if not self._tokens:
            return None
        stages = zip(*(stage_s for stage_s, _ in self._tokens), strict=True)
        token_s = statistics.median(seconds for _, seconds in self._tokens)
        return MeasuredTokens(len(self._tokens), tuple(map(statistics.median, stages)), token_s)
