# SPDX-License-Identifier: MIT
"""Body of `/line`: what the lines of the mesh do. Times are seconds, shares 0 to 1."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from coordinator.bottleneck import LimitKind
from coordinator.events import LineChange


class SpanInfo(BaseModel):
    """A part of a frame's trip.

    `stage` counts from 0; of a hop it is the one it leads to, and their number for that back to the coordinator.
    """

    kind: Literal["hop", "waiting", "computing", "held"]
    stage: int
    start_s: float
    end_s: float


class FrameInfo(BaseModel):
    """A frame that came back; times are since the first of the frames beside it was sent."""

    number: int
    is_decode: bool
    n_tokens: int
    sent_s: float
    received_s: float
    spans: list[SpanInfo]


class FrameMeansInfo(BaseModel):
    """Frames of one kind that came back in the window, with their means."""

    n_frames: int
    frames_per_s: float
    n_tokens: int
    mean_batch: float
    largest_batch: int
    trip_s: float
    beside_s: float
    """Of a trip, what is neither computing nor waiting for it: hops, and handing on."""


class CardInfo(BaseModel):
    """A card under a worker as its driver sees it, whoever uses it; null: not told."""

    device: str
    used_bytes: int | None = None
    utilisation: float | None = None
    """Of its compute units, 0 to 1."""
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None


class DeviceInfo(BaseModel):
    """What a worker said of its device, some seconds ago."""

    description: str
    free_bytes: int
    total_bytes: int
    cards: list[CardInfo]


class WorkerActivity(BaseModel):
    """A stage; the three shares add up to 1."""

    worker: str
    layer_start: int
    layer_end: int
    host: str = ""
    """Its machine; empty if that is not known."""
    device: str = ""
    weights_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    device_now: DeviceInfo | None = None
    """With `devices=true`, once the worker has answered."""
    busy_share: float
    waiting_share: float
    """It did not compute, while frames were elsewhere in the line."""
    idle_share: float
    """Nothing was in the line."""
    n_queued: float
    """Frames that had arrived and waited for it, on the average."""
    tokens_per_s: float
    """Tokens that it computed, of prompts and others."""
    decode_frame_s: float
    """Seconds that it computed a frame, on the average; 0: there was none."""
    prefill_frame_s: float


class StageRange(BaseModel):
    """A worker with the half-open range of layers that it would have."""

    worker: str
    layer_start: int
    layer_end: int


class RebalancedInfo(BaseModel):
    """Layer ranges that would be faster; `option` is what to type, null where that cannot be."""

    stages: list[StageRange]
    gain: float
    """How many times as many frames."""
    option: str | None


class LimitInfo(BaseModel):
    """What limits the speed; `worker` is set if it is one worker's computing."""

    kind: LimitKind
    sentence: str
    worker: str | None
    rebalanced: RebalancedInfo | None


class LineInfo(BaseModel):
    """One line."""

    n_running: int
    n_waiting: int
    n_slots: int
    n_in_flight: int
    """Frames in the line now."""
    mean_in_flight: float
    """The same while there was one, on the average of the window."""
    n_prompt_tokens: int
    """Of all requests since the line was opened."""
    n_reused_tokens: int
    """Of these, those that were in the cache."""
    generated_per_s: float
    """Tokens that requests got."""
    prompt_tokens_per_s: float
    """Tokens of prompts that were computed."""
    decode: FrameMeansInfo
    prefill: FrameMeansInfo
    stages: list[WorkerActivity]
    limit: LimitInfo
    is_suspended: bool = False
    """It broke, and no other carries on yet; `stages` are those it had."""
    frames: list[FrameInfo]
    """The last that came back, oldest first, 64 at most."""


class EventInfo(BaseModel):
    """What became of a line, or of its model."""

    at_s: float
    """Seconds since 1970."""
    model: str = ""
    change: LineChange
    message: str
    worker: str | None
    """Who was lost, if one was; who joined; who had ended."""
    n_streams: int
    """Requests that went on, if the line was laid again."""
    pause_s: float
    """For which there was no line."""


class LineStatus(BaseModel):
    """All lines of a model; one, unless there are replicas."""

    model: str
    window_s: float
    lines: list[LineInfo]
    events: list[EventInfo] = []
    """Of all lines of all models, oldest first; the last 50 since the server was started."""
