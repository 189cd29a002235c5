# SPDX-License-Identifier: MIT
"""What a line has come to: its counts since it was opened, and its requests now. A snapshot for `/metrics`, which
unlike `activity` needs no window and no frames.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.plan import Plan
from coordinator.session import Session
from coordinator.tally import Tally


@dataclass(frozen=True, slots=True)
class LineCounts:
    """A line at one moment.

    Attributes:
        plan: Of the line that serves; while there is none, of the last one.
        tally: Goes on counting; to be read on the mesh's loop.
        n_in_flight: Frames in the line now.
        n_prompt_tokens: Of all requests that were begun.
        n_reused_tokens: Of these, those that were in the cache.
        is_suspended: It broke, and no other carries on yet.
    """

    plan: Plan
    tally: Tally
    n_slots: int
    n_running: int
    n_waiting: int
    n_paused: int
    n_in_flight: int
    n_prompt_tokens: int
    n_reused_tokens: int
    is_suspended: bool


def counts_of(session: Session, plan: Plan) -> LineCounts:
    """What a line has come to."""
    return LineCounts(
        plan=plan,
        tally=session.tally,
        n_slots=plan.demand.n_sequences,
        n_running=session.n_running,
        n_waiting=session.n_waiting,
        n_paused=session.n_paused,
        n_in_flight=session.n_in_flight,
        n_prompt_tokens=session.n_prompt_tokens,
        n_reused_tokens=session.n_reused_tokens,
        is_suspended=session.is_suspended,
    )
