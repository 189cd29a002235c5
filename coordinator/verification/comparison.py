# SPDX-License-Identifier: MIT
"""How far apart two sets of logits are, in figures that say what it means for the tokens. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
"""A row for each that is compared, of all tokens of the vocabulary."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of what was got from what was expected.

    Attributes:
        n_rows: That were compared.
        n_same_bits: Of these, those without any difference.
        n_same_top: Those with the same likeliest token.
        max_logit: The largest difference of a logit; infinite where one is no number.
        mean_kl: Kullback-Leibler divergence of what was got from what was expected, of all rows, in nats.
        max_kl: Of one row.
    """

    n_rows: int
    n_same_bits: int
    n_same_top: int
    max_logit: float
    mean_kl: float
    max_kl: float

    @property
    def is_none(self) -> bool:
        """Whether all is the same, to the bit."""
        return self.n_same_bits == self.n_rows


def difference_of(expected: Sequence[Logits], got: Sequence[Logits]) -> Difference:
    """Of at least one row; as many steps of as many rows on both sides."""
    n_same_bits = n_same_top = 0
    max_logit, divergences = 0.0, []
    for right, other in zip(expected, got, strict=True):
        n_same_bits += int(np.all(right.view(np.uint32) == other.view(np.uint32), axis=1).sum())
        n_same_top += int((right.argmax(axis=1) == other.argmax(axis=1)).sum())
        gap = float(np.max(np.abs(right.astype(np.float64) - other)))
        max_logit = max(max_logit, gap if math.isfinite(gap) else math.inf)
        divergences += _divergences(right, other)
    return Difference(
        n_rows=len(divergences),
        n_same_bits=n_same_bits,
        n_same_top=n_same_top,
        max_logit=max_logit,
        mean_kl=sum(divergences) / len(divergences),
        max_kl=max(divergences),
    )


def _divergences(right: Logits, other: Logits) -> list[float]:
    """Of each row, in nats; infinite where a logit is no number."""
    expected, got = _log_softmax(right), _log_softmax(other)
    with np.errstate(invalid="ignore"):
        rows = np.sum(np.exp(expected) * (expected - got), axis=1)
    return [max(0.0, float(row)) if math.isfinite(row) else math.inf for row in rows]


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        shifted = logits.astype(np.float64) - np.max(logits, axis=1, keepdims=True)
        result: NDArray[np.float64] = shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))
    return result
