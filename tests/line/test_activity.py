# SPDX-License-Identifier: MIT
"""What a running line says of itself: shares of time that add up, and who is the slowest."""

from __future__ import annotations

import time

import pytest

from coordinator import LayerRange, LimitKind, SamplingParams
from tests.line.conftest import open_mesh
from tests.line.processes import WorkerProcess

_GREEDY = SamplingParams(temperature=0)
_RANGES = (LayerRange(0, 1), LayerRange(1, 8))
_PROMPT = "The llama walked over the mountain and looked for the river. " * 8


def test_the_worker_with_most_of_the_layers_is_named_with_ranges_that_would_balance(
    workers: list[WorkerProcess],
) -> None:
    with open_mesh(workers[:2], layer_ranges=_RANGES, batch=512, queue=64) as mesh:
        # Where others have the processors the worker cannot be busy all the time, and it is not what limits the line.
        for _ in range(5):
            began_s = time.monotonic()
            running = [mesh.generate(_PROMPT, sampling=_GREEDY, max_tokens=2, cache_prompt=False) for _ in range(16)]
            for generation in running:
                generation.wait()
            (activity,) = mesh.activity(time.monotonic() - began_s)
            figures, limit = activity.figures, activity.limit
            if limit.kind is LimitKind.BUSY_WORKER:
                break
        n_prompt = sum(generation.usage.prompt_tokens for generation in running)
        assert (figures.prefill.n_tokens, figures.n_generated) == (n_prompt, 32)
        assert activity.n_prompt_tokens % n_prompt == activity.n_reused_tokens == 0  # of all that it was asked
        first, second = figures.stages
        for number, stage in enumerate(figures.stages):
            assert stage.busy + stage.waiting + stage.idle == pytest.approx(1)
            computed_s = sum(frame.computed_s[number] for frame in activity.frames)
            assert stage.busy * figures.window_s == pytest.approx(computed_s, rel=0.02)
        assert second.busy > 2 * first.busy
        assert second.n_queued > first.n_queued
        assert (limit.kind, limit.worker) == (LimitKind.BUSY_WORKER, workers[1].name)
        assert limit.rebalanced is not None
        # Whatever a worker does to any frame is counted with its one layer, so this is less than layers alone say.
        assert limit.rebalanced.gain > 1.1
        (_, more), (_, fewer) = limit.rebalanced.stages
        assert len(more) > 1
        assert f"; {7 - len(fewer)} layer" in limit.sentence
        assert " fewer on cellar would balance the line" in limit.sentence
        assert limit.option == f"--layers attic=0-{more.end - 1},cellar={more.end}-7"


def test_one_stream_is_at_one_place_at_a_time(workers: list[WorkerProcess]) -> None:
    with open_mesh(workers[:2], layer_ranges=_RANGES) as mesh:
        began_s = time.monotonic()
        mesh.generate("Once", sampling=_GREEDY, max_tokens=40).wait()
        (activity,) = mesh.activity(time.monotonic() - began_s)
        figures = activity.figures
        assert figures.mean_in_flight == pytest.approx(1, abs=0.05)
        assert sum(stage.busy for stage in figures.stages) <= figures.active_share
        assert figures.decode.n_frames == figures.n_generated - 1
        assert figures.decode.trip_s >= figures.decode.beside_s + sum(figures.decode.stage_s) - 1e-9
        with pytest.raises(ValueError, match="frames are remembered for 180 s"):
            mesh.activity(181)
