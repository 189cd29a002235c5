# SPDX-License-Identifier: MIT
"""Tokens that llama.cpp's grammars let through, and that make other text than the grammar read.

Two kinds. A control token (`<|im_start|>`) counts as its written name, and is no text at all where the answer is put
together. And a byte may follow that makes a character of too many bytes, or half of a surrogate pair: llama.cpp adds up
its bits, everybody else sees three broken characters (decode_utf8 in llama.cpp's src/llama-grammar.cpp). With either, a
string that a grammar counts is longer or shorter than it says.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from native.vocabulary import Vocabulary

# What may follow these first bytes of a character, where it is not all of 80 to BF. Source: RFC 3629, section 4.
_SECOND_BYTES = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}


class GrammarGaps:
    """Closes these gaps for one sequence. Used by its sampler.

    Args:
        vocabulary: the model's; remembers what was found out of its tokens.
        visible: control tokens that are text of the answer.
        names_tokens: the grammar names tokens, so control tokens are its own affair.
    """

    def __init__(self, vocabulary: Vocabulary, visible: Sequence[int], *, names_tokens: bool) -> None:
        self._vocabulary = vocabulary
        self._visible = np.array(visible, np.int64)
        self._names_tokens = names_tokens
        self._last_byte: int | None = None

    def closed(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits without those of tokens that must not come next."""
        hidden = self._hidden()
        if not len(hidden):
            return logits
        left = logits.copy()
        left[hidden] = -np.inf
        return left

    def accept(self, token: int) -> None:
        """Takes the token that came."""
        piece = self._vocabulary.piece(token)
        self._last_byte = piece[-1] if piece else self._last_byte

    @functools.cached_property
    def _hidden_control_tokens(self) -> NDArray[np.int64]:
        if self._names_tokens:
            return np.empty(0, np.int64)
        hidden = self._vocabulary.hidden_control_tokens
        return np.setdiff1d(hidden, self._visible) if len(self._visible) else hidden

    def _hidden(self) -> NDArray[np.int64]:
        hidden = self._hidden_control_tokens
        if self._last_byte not in _SECOND_BYTES:
            return hidden
        first, last = _SECOND_BYTES[self._last_byte]
        bytes_ = self._vocabulary.first_bytes
        # Those of another kind are refused by the grammar itself.
        broken = np.flatnonzero((bytes_ >= 0x80) & (bytes_ <= 0xBF) & ((bytes_ < first) | (bytes_ > last)))
        return np.concatenate([hidden, broken])
