# SPDX-License-Identifier: MIT
"""Whether a model gives the same logits split as whole, bit for bit. Used by the tests beside this and by
`scripts/conformance`, which runs it as a process per model (`python -m tests.conformance.split_check FILE`).

The reference is llama.cpp's own default load of the whole file: no device list, no wire, repacked layouts and all.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from native import (
    Batch,
    Context,
    ContextParams,
    CrossingTensor,
    FlashAttention,
    LayerRange,
    LoadFailedError,
    Model,
    NativeError,
    UnsupportedModelError,
    read_layout,
)

Logits = NDArray[np.float32]
Stage = tuple[Model, Context]

# Small enough that a prompt of PROMPT tokens goes in several ubatches.
_N_UBATCH = 16
_PROMPT = 40
_DECODED = 6


@dataclass(frozen=True)
class Outcome:
    """What became of one model: `verdict` is "identical", "refused", "differs", "error" or "whole fails"."""

    architecture: str
    n_layer: int
    verdict: str
    detail: str
    n_comparisons: int


def partitions(n_layer: int) -> list[tuple[int, ...]]:
    """The cuts to try: every position for two stages of a small model, else the ends and the middle; then three and
    four stages where there are layers for them."""
    if n_layer <= 4:
        cuts: list[tuple[int, ...]] = [(cut,) for cut in range(1, n_layer)]
    else:
        cuts = [(1,), (n_layer // 2,), (n_layer - 1,)]
    if n_layer >= 3:
        cuts.append((1, n_layer - 1))
    if n_layer >= 6:
        cuts.append((n_layer // 3, 2 * n_layer // 3))
    if n_layer >= 4:
        cuts.append((1, n_layer // 2, n_layer - 1))
    return list(dict.fromkeys(cuts))


@contextmanager
def open_line(
    path: Path, cuts: Sequence[int], params: ContextParams, device: str | None = None
) -> Iterator[list[Stage]]:
    """Stages of one model in this process; without cuts the whole model as llama.cpp loads it by default."""
    n_layer = read_layout(path).n_layer
    bounds = [0, *cuts, n_layer]
    with ExitStack() as stack:
        stages = []
        for start, end in itertools.pairwise(bounds):
            layers = LayerRange(start, end) if cuts else None
            model = stack.enter_context(Model.load(path, layers=layers, device=device))
            stages.append((model, stack.enter_context(Context(model, params))))
        yield stages


def run_step(
    stages: Sequence[Stage], tokens: Sequence[int], positions: Sequence[int], seq_ids: Sequence[int]
) -> Logits:
    """One batch through all stages; logits of every row, float32 (n_tokens, n_vocab)."""
    rows = np.arange(len(tokens), dtype=np.int32)
    batch = Batch(np.array(tokens, np.int32), np.array(positions, np.int32), np.array(seq_ids, np.int32), rows)
    crossing: list[CrossingTensor] = []
    for _, context in stages:
        crossing = context.step(batch, crossing)
    last = stages[-1][1]
    return np.stack([last.logits(int(row)).copy() for row in rows])


def session_steps(n_vocab: int) -> Iterator[tuple[Sequence[int], Sequence[int], Sequence[int]]]:
    """Tokens, positions and sequences of each step of two interleaved sequences: prefill in several ubatches, prefill
    beside a decode, then both decoding."""
    tokens = np.random.default_rng(7).integers(0, n_vocab, 2 * _PROMPT + 2 * _DECODED).tolist()
    second = _PROMPT // 2 + 1
    yield tokens[:_PROMPT], range(_PROMPT), [0] * _PROMPT
    yield [*tokens[:second], tokens[_PROMPT]], [*range(second), _PROMPT], [1] * second + [0]
    for i in range(1, _DECODED):
        at = _PROMPT + i
        yield [tokens[at], tokens[at + 9]], [at, second + i - 1], [0, 1]


def run_session(stages: Sequence[Stage]) -> Logits:
    """`session_steps` through all stages; logits of every row."""
    n_vocab = min(model.n_vocab for model, _ in stages)
    return np.concatenate([run_step(stages, *step) for step in session_steps(n_vocab)])


def check_model(
    path: Path, cuts_to_try: Sequence[tuple[int, ...]] | None = None, *, n_ubatch: int = _N_UBATCH
) -> Outcome:
    """Compares every partition under every cache and attention setting with the whole model."""
    layout = read_layout(path)
    n_comparisons = 0

    def outcome(verdict: str, detail: str = "") -> Outcome:
        return Outcome(layout.architecture, layout.n_layer, verdict, detail, n_comparisons)

    for flash in (FlashAttention.OFF, FlashAttention.ON):
        for unified in (False, True):
            params = ContextParams(
                n_ctx_seq=256, n_seq_max=2, n_batch=64, n_ubatch=n_ubatch, flash_attention=flash,
                kv_unified=unified, n_threads=1,
            )  # fmt: skip
            setting = f"flash attention {flash.name.lower()}, {'unified' if unified else 'per-sequence'} KV"
            try:
                with open_line(path, (), params) as stages:
                    if not stages[0][1].has_memory:
                        # A model that attends in both directions has no cache and takes each batch in one ubatch.
                        params = replace(params, n_ubatch=params.n_batch)
                with open_line(path, (), params) as stages:
                    whole = run_session(stages)
            except UnsupportedModelError as error:
                return outcome("refused", error.reason)
            except LoadFailedError as error:
                if flash is FlashAttention.ON:
                    continue  # llama.cpp itself refuses flash attention for this model
                return outcome("whole fails", str(error))
            except NativeError as error:
                return outcome("whole fails", str(error))
            for cuts in cuts_to_try or partitions(layout.n_layer):
                where = f"cut at {', '.join(map(str, cuts))}, {setting}"
                try:
                    with open_line(path, cuts, params) as stages:
                        split = run_session(stages)
                except UnsupportedModelError as error:
                    return outcome("refused", error.reason)
                except NativeError as error:
                    return outcome("error", f"{where}: {error}")
                n_comparisons += 1
                if not np.array_equal(whole, split, equal_nan=True):
                    worst = float(np.nanmax(np.abs(whole - split)))
                    return outcome("differs", f"{where}: largest difference {worst:.3g}")
    return outcome("identical")


if __name__ == "__main__":
    print(json.dumps(asdict(check_model(Path(sys.argv[1])))))
