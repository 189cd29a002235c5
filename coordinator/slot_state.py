# SPDX-License-Identifier: MIT
"""What a slot is doing: a snapshot for `/slots`, made by the session on its event loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coordinator.sequence import Limits, RunningSequence
from native import SamplingParams


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """A request that has a slot.

    Attributes:
        id: Unique in its session.
        n_prompt: Tokens of its prompt.
        n_reused: Of these, those that were in the cache.
        n_cached: Tokens of it that are in the cache or on their way there, guesses included.
        n_generated: Tokens sampled.
        max_tokens: How many it may have.
    """

    id: int
    n_prompt: int
    n_reused: int
    n_cached: int
    n_generated: int
    max_tokens: int
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class SlotState:
    """A place for a sequence in the caches of a line.

    Attributes:
        speculates: Whether tokens are guessed there.
        request: Who has it; None: nobody.
    """

    speculates: bool
    request: SlotRequest | None


def slot_states(limits: Limits, running: Iterable[RunningSequence]) -> tuple[SlotState, ...]:
    """All slots of a session with these limits, whose requests these are, by their number."""
    requests = {each.slot: _request(each) for each in running}
    return tuple(SlotState(limits.n_drafts > 0, requests.get(number)) for number in range(limits.n_slots))


def _request(sequence: RunningSequence) -> SlotRequest:
    request = sequence.request
    return SlotRequest(
        id=request.id,
        n_prompt=len(request.prompt),
        n_reused=sequence.n_reused,
        n_cached=len(sequence.cached),
        n_generated=sequence.n_generated,
        max_tokens=request.max_tokens,
        sampling=request.sampling,
    )
