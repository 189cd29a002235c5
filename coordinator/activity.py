# SPDX-License-Identifier: MIT
"""What a line does now: its figures over the last seconds, its last frames, its requests, and what limits it. A
snapshot that `Mesh.activity` makes of a session, for `caravan top`; nothing here runs while nobody looks.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.bottleneck import Limit, Load, limit_of
from coordinator.frame_log import KEPT_S, FrameLog, FrameRecord
from coordinator.plan import Plan
from coordinator.session import Session
from coordinator.waterfall import LineFigures, figures_of

_FRAMES = 64
"""Of the last frames: more than go on a screen."""


@dataclass(frozen=True, slots=True)
class LineActivity:
    """A line at one moment.

    Attributes:
        figures: Of a window that ends now or, while frames are in the line, when the oldest of them was sent: what came
            later is not known in full.
        load: Its requests now.
        n_in_flight: Frames in the line now.
        n_prompt_tokens: Of all requests since the line was opened.
        n_reused_tokens: Of these, those that were in the cache.
        is_suspended: It broke, and no other carries on yet: what runs and waits waits for one.
        frames: The last ones that came back, oldest first; `waterfall.spans_of` lays each out.
    """

    plan: Plan
    figures: LineFigures
    load: Load
    n_in_flight: int
    n_prompt_tokens: int
    n_reused_tokens: int
    limit: Limit
    is_suspended: bool
    frames: tuple[FrameRecord, ...]


def activity_of(session: Session, plan: Plan, *, n_lines: int, window_s: float, now_s: float) -> LineActivity:
    """What a line does. From any thread.

    Args:
        n_lines: Lines of the mesh.
        window_s: Of the figures.
        now_s: On the monotonic clock.

    Raises:
        ValueError: The window is not above 0, or longer than frames are remembered.
    """
    if not 0 < window_s <= KEPT_S:
        raise ValueError(f"a window of {window_s} s: frames are remembered for {KEPT_S:.0f} s")
    frames = session.frames
    if frames.n_stages != len(plan.stages):
        frames = FrameLog(len(plan.stages))  # another line carries on since the plan was taken
    in_flight_since = frames.in_flight_since
    end_s = min([now_s, *in_flight_since[:1]])
    records = frames.since(end_s - window_s)
    figures = figures_of(records, end_s - window_s, end_s, len(plan.stages))
    load = Load(
        n_running=session.n_running,
        n_waiting=session.n_waiting,
        n_slots=plan.demand.n_sequences,
        oldest_in_flight_s=now_s - in_flight_since[0] if in_flight_since else None,
        n_lines=n_lines,
    )
    return LineActivity(
        plan=plan,
        figures=figures,
        load=load,
        n_in_flight=len(in_flight_since),
        n_prompt_tokens=session.n_prompt_tokens,
        n_reused_tokens=session.n_reused_tokens,
        limit=limit_of(figures, plan, load),
        is_suspended=session.is_suspended,
        frames=tuple(records[-_FRAMES:]),
    )
