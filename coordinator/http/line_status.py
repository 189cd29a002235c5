# SPDX-License-Identifier: MIT
"""From what lines do to the body of `/line`. Pure; runs in a thread beside the server's loop, since it sums up
thousands of frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus

from coordinator.activity import LineActivity
from coordinator.bottleneck import Limit
from coordinator.frame_log import KEPT_S, FrameRecord
from coordinator.http.rejection import RejectedError
from coordinator.http.schemas.line import (
    CardInfo,
    DeviceInfo,
    EventInfo,
    FrameInfo,
    FrameMeansInfo,
    LimitInfo,
    LineInfo,
    LineStatus,
    RebalancedInfo,
    SpanInfo,
    StageRange,
    WorkerActivity,
)
from coordinator.mesh import AsyncMesh
from coordinator.waterfall import LEAST_WINDOW_S, WINDOW_S, FrameMeans, spans_of
from coordinator.workers import FoundWorker


def window_of(asked: str | None) -> float:
    """The window that a query asks for.

    Raises:
        RejectedError: 400, it is no number of seconds that can be.
    """
    try:
        window_s = WINDOW_S if asked is None else float(asked)
    except ValueError:
        window_s = math.nan
    if not LEAST_WINDOW_S <= window_s <= KEPT_S:
        message = f"window_s is to be a number of seconds from {LEAST_WINDOW_S} to {KEPT_S:.0f}"
        raise RejectedError(HTTPStatus.BAD_REQUEST, message, param="window_s", code="invalid_request")
    return window_s


def is_asked(asked: str | None) -> bool:
    """Whether a query asks for what is left out otherwise."""
    return asked in ("true", "1")


def line_status(
    name: str, mesh: AsyncMesh, window_s: float, events: Sequence[EventInfo], workers: Mapping[str, FoundWorker]
) -> LineStatus:
    """What the lines of a mesh do.

    Args:
        name: The model's, for clients.
        workers: What those of the lines said last, by name; empty if it was not asked for.
    """
    lines = [_line(each, workers) for each in mesh.activity(window_s)]
    return LineStatus(model=name, window_s=window_s, lines=lines, events=list(events))


def _line(activity: LineActivity, workers: Mapping[str, FoundWorker]) -> LineInfo:
    figures, load = activity.figures, activity.load
    return LineInfo(
        n_running=load.n_running,
        n_waiting=load.n_waiting,
        n_slots=load.n_slots,
        n_in_flight=activity.n_in_flight,
        mean_in_flight=figures.mean_in_flight,
        n_prompt_tokens=activity.n_prompt_tokens,
        n_reused_tokens=activity.n_reused_tokens,
        generated_per_s=figures.generated_per_s,
        prompt_tokens_per_s=figures.prompt_tokens_per_s,
        decode=_means(figures.decode, figures.window_s),
        prefill=_means(figures.prefill, figures.window_s),
        stages=[_worker(activity, number, workers) for number in range(len(figures.stages))],
        limit=_limit(activity.limit),
        is_suspended=activity.is_suspended,
        frames=_frames(activity.frames),
    )


def _means(means: FrameMeans, window_s: float) -> FrameMeansInfo:
    return FrameMeansInfo(
        n_frames=means.n_frames,
        frames_per_s=means.n_frames / window_s,
        n_tokens=means.n_tokens,
        mean_batch=means.mean_batch,
        largest_batch=means.largest_batch,
        trip_s=means.trip_s,
        beside_s=means.beside_s,
    )


def _worker(activity: LineActivity, number: int, workers: Mapping[str, FoundWorker]) -> WorkerActivity:
    stage, figures = activity.plan.stages[number], activity.figures
    shares = figures.stages[number]
    return WorkerActivity(
        worker=stage.worker,
        layer_start=stage.layers.start,
        layer_end=stage.layers.end,
        host=stage.host,
        device=stage.device,
        weights_bytes=stage.memory.weights_bytes,
        kv_bytes=stage.memory.kv_bytes,
        compute_bytes=stage.memory.compute_bytes,
        device_now=_device(workers.get(stage.worker)),
        busy_share=shares.busy,
        waiting_share=shares.waiting,
        idle_share=shares.idle,
        n_queued=shares.n_queued,
        tokens_per_s=figures.tokens_per_s,
        decode_frame_s=figures.decode.stage_s[number],
        prefill_frame_s=figures.prefill.stage_s[number],
    )


def _device(worker: FoundWorker | None) -> DeviceInfo | None:
    if worker is None:
        return None
    cards = [CardInfo(**asdict(card)) for card in worker.telemetry]
    device = worker.device
    return DeviceInfo(
        description=device.description, free_bytes=device.free_bytes, total_bytes=device.total_bytes, cards=cards
    )


def _limit(limit: Limit) -> LimitInfo:
    rebalanced = None
    if limit.rebalanced is not None:
        stages = [
            StageRange(worker=worker, layer_start=layers.start, layer_end=layers.end)
            for worker, layers in limit.rebalanced.stages
        ]
        rebalanced = RebalancedInfo(stages=stages, gain=limit.rebalanced.gain, option=limit.option)
    return LimitInfo(kind=limit.kind, sentence=limit.sentence, worker=limit.worker, rebalanced=rebalanced)


def _frames(records: Sequence[FrameRecord]) -> list[FrameInfo]:
    start_s = records[0].sent_s if records else 0.0
    return [
        FrameInfo(
            number=record.number,
            is_decode=record.is_decode,
            n_tokens=record.n_tokens,
            sent_s=record.sent_s - start_s,
            received_s=record.received_s - start_s,
            spans=[
                SpanInfo(
                    kind=span.kind.value,
                    stage=span.stage,
                    start_s=span.start_s - start_s,
                    end_s=span.end_s - start_s,
                )
                for span in spans_of(record)
            ],
        )
        for record in records
    ]
