# SPDX-License-Identifier: MIT
"""How long a loaded stage takes for batches of several sizes, on values made up. Runs on the loading thread."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from native import Batch, LoadCancelledError
from worker.errors import BadRequestError
from worker.loading import Report
from worker.stage import Stage

# A decode step is short, so that more of them cost little and even out what else the machine does.
_N_SINGLE_STEPS = 5
_N_STEPS = 3
# Between two tokens of one stream a stage waits for the others. After a pause of 10 ms a step with one token took an
# eighth longer than right after another (24 layers of 350 M parameters on an EPYC core, the quickest of 25 each).
_MOST_REST_S = 0.03
# Tokens only have to differ; the same ones each time keep times alike.
_SEED = 1


@dataclass(frozen=True, slots=True)
class Point:
    """Seconds of one step with a batch of so many tokens."""

    n_tokens: int
    seconds: float


def time_stage(stage: Stage, batch_sizes: Sequence[int], limit_s: float, report: Report) -> tuple[Point, ...]:
    """The points of a stage that nobody else uses; its KV cache is not to be used afterwards.

    Args:
        batch_sizes: ascending, each at most n_batch.
        limit_s: of computing; a size that would exceed it is left out, save the first.
        report: is asked before each step whether to go on.

    Raises:
        BadRequestError: a batch that this model cannot take.
        LoadCancelledError: `report` said no.
        DecodeError: llama.cpp failed a step.
    """

    rest_s = 0.0

    def step_s(n_tokens: int) -> float:
        nonlocal rest_s
        if not report(1.0):
            raise LoadCancelledError("the benchmark was cancelled")
        batch = trial_batch(n_tokens, stage.spec.params.n_seq_max, stage.n_vocab)
        stage.context.kv_clear()
        if n_tokens == 1:
            time.sleep(rest_s)
        started_s = time.perf_counter()
        stage.context.try_step(batch)
        seconds = time.perf_counter() - started_s
        rest_s = min(seconds, _MOST_REST_S)  # as if there were another stage like it
        return seconds

    try:
        return time_batches(step_s, batch_sizes, limit_s)
    except ValueError as error:
        raise BadRequestError(str(error)) from error


def time_batches(step_s: Callable[[int], float], batch_sizes: Sequence[int], limit_s: float) -> tuple[Point, ...]:
    """The median of a few steps per batch size, while all of them together stay within `limit_s`.

    Args:
        step_s: runs a step with so many tokens; how long it took.
    """
    from statistics import median  # here, as it brings much that no other part of a worker needs

    points: list[Point] = []
    spent_s = 0.0
    for n_tokens in batch_sizes:
        # Time grows in proportion to tokens at most, and a point costs two steps at least.
        if points and spent_s + 2 * points[-1].seconds * n_tokens / points[-1].n_tokens > limit_s:
            break
        # The first one builds graphs, and meets weights that no cache holds.
        spent_s += step_s(n_tokens)
        steps_s: list[float] = []
        n_steps = _N_SINGLE_STEPS if n_tokens == 1 else _N_STEPS
        while not steps_s or (len(steps_s) < n_steps and spent_s + steps_s[-1] <= limit_s):
            steps_s.append(step_s(n_tokens))
            spent_s += steps_s[-1]
        points.append(Point(n_tokens, median(steps_s)))
    return tuple(points)


def trial_batch(n_tokens: int, n_seq_max: int, n_vocab: int) -> Batch:
    """A decode of as many sequences, with an output for each; a larger one is the prefill of one, with one output."""
    tokens = np.random.default_rng(_SEED).integers(0, n_vocab, n_tokens, dtype=np.int32)
    each, none = np.arange(n_tokens, dtype=np.int32), np.zeros(n_tokens, np.int32)
    if n_tokens <= n_seq_max:
        return Batch(tokens, positions=none, seq_ids=each, output_rows=each)
    return Batch(tokens, positions=each, seq_ids=none, output_rows=each[-1:])
