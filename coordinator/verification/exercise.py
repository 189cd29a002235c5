# SPDX-License-Identifier: MIT
"""What is computed to compare: texts, the most of each as a prompt, its last tokens one by one as if they were being
generated. All of it is known before, so that no side depends on what another says. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from native import Batch

TEXTS = (
    "Once upon a time a llama lived on a mountain above a small town. Every evening she carried a lantern down the "
    "path, so that those who came home late could see where the stones were loose. One night, when a storm had put "
    "out every other light in the valley, ",
    "def mean(values: list[float]) -> float:\n    if not values:\n        raise ValueError('no values')\n"
    "    total = 0.0\n    for value in values:\n        total += value\n    return total / len(values)\n",
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89. Eins, zwei, drei, vier. Água, fuego, terre, aria. "
    "The capital of France is Paris, that of Italy is Rome, and that of Spain is ",
)
"""Prose, code, numbers and words of several languages: what models are asked for."""

_LOGITS_BYTES = 8 << 20
"""Of one frame's rows: half of what the smallest limit of a message lets through."""

_MOST_ROWS = 16
"""Of a prompt's batch: more say nothing new, and each is a vocabulary of floats on its way."""


@dataclass(frozen=True, slots=True)
class ExerciseStep:
    """A batch of one sequence.

    Attributes:
        position: Of its first token.
        rows: Of the batch, ascending, whose logits are compared.
    """

    tokens: tuple[int, ...]
    position: int
    rows: tuple[int, ...]

    @property
    def positions(self) -> range:
        """Of its tokens."""
        return range(self.position, self.position + len(self.tokens))

    @property
    def begins_text(self) -> bool:
        """Whether what was computed before is to be forgotten first."""
        return self.position == 0

    @property
    def batch(self) -> Batch:
        """As llama.cpp takes it."""
        values = (self.tokens, self.positions, [0] * len(self.tokens), self.rows)
        return Batch(*(np.array(each, np.int32) for each in values))


def exercise_of(
    texts: Sequence[Sequence[int]], *, n_ctx: int, n_batch: int, n_vocab: int, n_single: int
) -> tuple[ExerciseStep, ...]:
    """The steps for these texts, none of which is empty.

    Args:
        n_ctx: Tokens of a text, at most; the rest of it is left out.
        n_batch: Tokens of a step, at most.
        n_single: Of the last tokens of each, that go one by one.
    """
    most_rows = max(1, min(_MOST_ROWS, _LOGITS_BYTES // (4 * n_vocab)))
    return tuple(step for text in texts for step in _steps_of(text[:n_ctx], n_batch, n_single, most_rows))


def _steps_of(text: Sequence[int], n_batch: int, n_single: int, most_rows: int) -> Iterator[ExerciseStep]:
    n_prompt = max(1, len(text) - n_single)
    for start in range(0, n_prompt, n_batch):
        tokens = tuple(text[start : min(start + n_batch, n_prompt)])
        every = -(-len(tokens) // most_rows)
        rows = tuple(sorted(range(len(tokens) - 1, -1, -every)))
        yield ExerciseStep(tokens, start, rows)
    for position in range(n_prompt, len(text)):
        yield ExerciseStep((text[position],), position, (0,))
