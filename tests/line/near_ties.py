# SPDX-License-Identifier: MIT
"""What "the same tokens" means where batches differ: a first difference is allowed only where the two candidates are
nearly tied in both runs. Such cases are counted and reported at the end of the test run.

llama.cpp itself is not batch-invariant: a sequence computed beside others differs in the last bits. Source: DESIGN,
section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordinator import Token
from tests.line.reference import Reference

NEAR = 1e-3
"""Of the logit range, between the two candidates."""

NEAR_OVER_BATCHES = 1e-2
"""The same where what one run decoded token by token another prefilled, again and again: llama.cpp alone, on the demo
model, gives logits that are up to 0.17 apart for that (of a range of some 25), at every other length."""


@dataclass(slots=True)
class Count:
    """Comparisons made in this test run, and those that ended at a near tie."""

    compared: int = 0
    near_ties: int = 0


COUNT = Count()


def check_same(
    reference: Reference,
    prompt: Sequence[int],
    expected: Sequence[int],
    tokens: Sequence[Token],
    *,
    greedy: bool = True,
    forbidden: Sequence[int] = (),
    near: float = NEAR,
) -> None:
    """Fails unless the tokens are the expected ones, or differ first at a near tie.

    Where tokens are drawn, a draw that falls on the border between two candidates flips as a tie does: then the two
    must be neighbours in the order of likelihood, which is the order in which llama.cpp lays out what it draws from;
    or have only such between them as are nearly tied with one of the two, and may stand beyond it as well.

    Args:
        tokens: With their logprobs and those of the likeliest tokens.
        forbidden: Tokens that could not be drawn.
        near: Of the logit range, at most, between two that are nearly tied.
    """
    COUNT.compared += 1
    ids = [token.id for token in tokens]
    pairs = zip(expected, ids, strict=False)
    first = next((i for i, (theirs, ours) in enumerate(pairs) if theirs != ours), None)
    if first is None:
        assert len(ids) == len(expected)
        return
    logits = reference.logits_after([*prompt, *expected[:first]])
    theirs, ours = expected[first], ids[first]
    limit = near * float(logits.max() - logits.min())
    if greedy:
        logprobs = {top.id: top.logprob for top in tokens[first].top_logprobs}
        gaps = abs(float(logits[theirs] - logits[ours])), abs(logprobs[theirs] - logprobs[ours])
        assert max(gaps) <= limit, f"token {first} is {ours}, not {theirs}, and they are {gaps} apart"
    else:
        logits[list(forbidden)] = -np.inf
        order = list(np.argsort(-logits, kind="stable"))
        low, high = sorted((order.index(theirs), order.index(ours)))
        for other in order[low + 1 : high]:
            gap = min(abs(float(logits[other] - logits[token])) for token in (theirs, ours))
            assert gap <= limit, f"token {first} is {ours}, not {theirs}, and {other} is between them"
    COUNT.near_ties += 1
