# SPDX-License-Identifier: MIT
"""What a sequence does whose context is full and that is to go on, as llama-server does it: the tokens after the first
`n_keep` go, half of them, and the rest moves up, in every stage's cache. Pure; the scheduler's.

What stays was computed with a view on what has gone, so the text that it would be read as never gave it: only the first
`n_keep` tokens can serve another request.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.frames import CacheOperation, Remove, Request, Shift
from coordinator.sequence import RunningSequence

_LEAST_LEFT = 4
"""Tokens of a context that may go at least, however many a request wants to keep. Source: llama.cpp,
tools/server/server-context.cpp."""


def n_kept(n_keep: int, n_prompt: int, n_ctx: int, *, adds_bos: bool) -> int:
    """Tokens at the beginning of a context that stay.

    Args:
        n_keep: As the request has it; -1: all of its prompt.
        adds_bos: Whether the model's texts begin with a token of their own, which stays with them.
    """
    wanted = (n_prompt if n_keep < 0 else n_keep) + adds_bos
    return min(n_ctx - _LEAST_LEFT, wanted)


def is_full(sequence: RunningSequence, n_ctx: int) -> bool:
    """Whether there is room for its next token, and for no further one."""
    return len(sequence.cached) + 1 >= n_ctx


def shift(sequence: RunningSequence) -> tuple[CacheOperation, ...]:
    """Makes room in a sequence whose next token is known: takes tokens out of its text and of what it has cached, and
    gives what the stages are to do, before that token."""
    n_keep, cached = sequence.request.n_keep, sequence.cached
    n_gone = _n_gone(len(cached), n_keep)
    del cached[n_keep : n_keep + n_gone]
    del sequence.text[n_keep : n_keep + n_gone]
    return Remove(sequence.slot, n_keep, n_keep + n_gone), Shift(sequence.slot, n_keep + n_gone, -n_gone)


def text_after(request: Request, generated: Sequence[int], n_ctx: int) -> list[int]:
    """What is left of a request's text when these tokens were sampled: as if each shift had been made in its turn."""
    text, n_keep = list(request.prompt), request.n_keep
    for token in generated:
        # With the token before it, which was the last one, the context is full.
        if len(text) >= n_ctx:
            del text[n_keep : n_keep + _n_gone(len(text) - 1, n_keep)]
        text.append(token)
    return text


def _n_gone(n_cached: int, n_keep: int) -> int:
    return max(1, (n_cached - n_keep) // 2)
