# SPDX-License-Identifier: MIT
"""What becomes of the hidden states of a text's tokens when it is embedded, and what llama.cpp makes of them after."""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

EUCLIDEAN = 2
"""The norm by which embeddings are divided unless asked otherwise."""

_LARGEST_INT16 = 32760.0
"""What the largest number of a vector becomes by the norm 0. Source: common_embd_normalize in common/common.cpp."""


class Pooling(Enum):
    """llama.cpp's pooling types. Source: enum llama_pooling_type in include/llama.h."""

    NONE = 0
    """Each token's own."""
    MEAN = 1
    CLS = 2
    """The first token's."""
    LAST = 3
    RANK = 4
    """What a reranker's head makes of the first token's, or the last one's: how well a document answers a query."""


def normalised(vector: NDArray[np.float32], norm: int = EUCLIDEAN) -> NDArray[np.float32]:
    """The vector as llama.cpp's tools normalise it, to the bit: products are rounded to 32 bits and added up in 64, one
    after the other.

    Args:
        vector: float32 (n,).
        norm: -1: as it is; 0: so that the largest number is that of an int16; 2: Euclidean; any other p: the p-norm.

    Source: common_embd_normalize in common/common.cpp.
    """
    if norm < 0:
        return vector
    if norm == 0:
        length = float(np.abs(vector).max(initial=0.0)) / _LARGEST_INT16
    elif norm == EUCLIDEAN:
        length = float(np.sqrt(_added_up((vector * vector).astype(np.float64))))
    else:
        length = float(_added_up(np.abs(vector).astype(np.float64) ** norm) ** (1.0 / norm))
    return vector * np.float32(1.0 / length if length > 0 else 0.0)


def _added_up(values: NDArray[np.float64]) -> float:
    """In their order, where numpy's own sum adds pairs."""
    return float(np.add.accumulate(values)[-1])
