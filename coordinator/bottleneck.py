# SPDX-License-Identifier: MIT
"""What limits a line's speed now, in a sentence or two for a person, and what would help. Pure: shares of time, the
plan and the queue in, words out. Asked by `activity`.

Shares are of the time in which something was in the line: what a line does while nobody asks for anything is no limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from coordinator.candidates import MARGIN_BYTES
from coordinator.plan import Plan
from coordinator.rebalancing import Rebalanced, Rebalancing, main_kind, rebalance
from coordinator.waterfall import FrameMeans, LineFigures

_EMPTY = 0.5
"""A line that is empty for longer is not what limits anything."""

_BUSY = 0.8
"""A worker that computes for more of the time leaves little to fill."""

_ALIKE = 0.15
"""Workers whose shares differ by less are called equally busy."""

_MUCH = 0.3
"""Hops that take more of a trip are worth a sentence."""

_ALONE = 1.05
"""Frames in flight on the average, of what is one at a time: one ends just as the next begins."""

_MOST_SEQUENCES = 256
"""llama.cpp's LLAMA_MAX_SEQ; Source: src/llama-cparams.h."""


class LimitKind(str, Enum):
    """What limits the speed."""

    NOT_KNOWN = "not_known"
    """No frame came back yet that could say."""
    NOTHING_TO_DO = "nothing_to_do"
    """Requests come slower than they are answered."""
    BUSY_WORKER = "busy_worker"
    """One worker computes nearly all the time, and others wait for it."""
    ALL_BUSY = "all_busy"
    SLOTS = "slots"
    """Requests wait for a slot, and workers for frames."""
    HOPS = "hops"
    """Much of each trip is neither computing nor waiting for it."""
    ONE_STREAM = "one_stream"
    """One request alone, whose tokens follow each other."""
    FEW_FRAMES = "few_frames"
    """Too little in the line to keep its workers busy."""


@dataclass(frozen=True, slots=True)
class Load:
    """A line's requests now.

    Attributes:
        n_running: They have a slot.
        n_waiting: They wait for one.
        n_slots: Requests at a time.
        oldest_in_flight_s: Seconds since the oldest frame was sent whose result has not come; None: there is none.
        n_lines: Lines of the mesh, this one among them.
    """

    n_running: int
    n_waiting: int
    n_slots: int
    oldest_in_flight_s: float | None = None
    n_lines: int = 1

    @property
    def is_full(self) -> bool:
        """Whether requests wait because all slots are taken."""
        return self.n_waiting > 0 and self.n_running >= self.n_slots


@dataclass(frozen=True, slots=True)
class Limit:
    """What limits the speed.

    Attributes:
        sentence: For a person; several, if there is more to say.
        worker: Whose computing it is, if it is one worker's.
        rebalanced: Layer ranges that would be faster; None: none that is worth it, or that is not what limits.
        option: What to type for these; None: there are none, or they cannot be typed (`--layers` is for one line).
    """

    kind: LimitKind
    sentence: str
    worker: str | None = None
    rebalanced: Rebalanced | None = None
    option: str | None = None


def limit_of(figures: LineFigures, plan: Plan, load: Load) -> Limit:
    """What limits a line."""
    if not figures.active_share or not figures.n_frames:
        return _without_frames(figures, load)
    if figures.active_share < 1 - _EMPTY:
        return Limit(
            LimitKind.NOTHING_TO_DO,
            f"The line was empty for {_percent(1 - figures.active_share)} of the last {_seconds(figures.window_s)}: it "
            "could do more than it is asked for.",
        )
    shares = [figures.busy_of_active(number) for number in range(len(plan.stages))]
    busiest = max(range(len(shares)), key=shares.__getitem__)
    if shares[busiest] >= _BUSY:
        return _busy(figures, plan, load, shares, busiest)
    if load.is_full:
        return Limit(LimitKind.SLOTS, _slots(plan, load, shares, busiest))
    means = main_kind(figures)
    if means.beside_share >= _MUCH:
        return Limit(LimitKind.HOPS, _hops(plan, means, shares))
    return _few(figures, plan, load, shares)


def _without_frames(figures: LineFigures, load: Load) -> Limit:
    if load.oldest_in_flight_s is None:
        return Limit(LimitKind.NOTHING_TO_DO, f"Nothing was in the line for the last {_seconds(figures.window_s)}.")
    return Limit(
        LimitKind.NOT_KNOWN,
        f"A frame has been in the line for {_seconds(load.oldest_in_flight_s)}, and none came back in the "
        f"{_seconds(figures.window_s)} before: nothing can be said yet.",
    )


def _busy(figures: LineFigures, plan: Plan, load: Load, shares: list[float], busiest: int) -> Limit:
    name, queue = plan.stages[busiest].worker, _queue(load)
    of_prompts = _of_prompts(figures, busiest)
    if len(shares) == 1:
        sentence = f"{name}, which holds all layers, computes {_percent(shares[0])} of the time{of_prompts}: the line "
        return Limit(LimitKind.BUSY_WORKER, f"{sentence}is as fast as it is.{queue}", name)
    if min(shares) >= shares[busiest] - _ALIKE:
        return Limit(
            LimitKind.ALL_BUSY,
            f"All workers are about equally busy ({_named(plan, shares)}){of_prompts}: the line does what they can."
            f"{queue}",
        )
    idler = [
        f"{stage.worker} only {_percent(share)}"
        for stage, share in zip(plan.stages, shares, strict=True)
        if share < shares[busiest] - _ALIKE
    ]
    sentence = f"{name} is busy {_percent(shares[busiest])} of the time{of_prompts}, but {', '.join(idler)}"
    found = rebalance(plan, figures)
    rebalanced = None if found is None else found.found
    sentence += f"{_what_of_it(plan, found, busiest)}.{queue}"
    option = rebalanced.option if rebalanced is not None and load.n_lines == 1 else None
    return Limit(LimitKind.BUSY_WORKER, sentence, name, rebalanced, option)


def _what_of_it(plan: Plan, found: Rebalancing | None, busiest: int) -> str:
    """Whether other layer ranges would help, as the end of a sentence."""
    if found is None:
        return ""
    if found.found is None:
        if found.lacks_memory:
            return "; the others have no memory for as many of its layers as would help"
        return "; no other layer ranges for these workers in this order would be 5 % faster"
    n_fewer = len(plan.stages[busiest].layers) - len(found.found.stages[busiest][1])
    gain = f"{found.found.gain:.1f}" if found.found.gain >= 1.15 else f"{found.found.gain:.2f}"
    if n_fewer <= 0:
        return f"; other layer ranges would make the line about {gain} times as fast"
    layers = f"{n_fewer} layer{'s' if n_fewer > 1 else ''} fewer on {plan.stages[busiest].worker}"
    return f"; {layers} would balance the line and make it about {gain} times as fast"


def _of_prompts(figures: LineFigures, stage: int) -> str:
    """ " (68 % of that for prompts)"; empty where that is less than half."""
    prompts_s, decode_s = (
        means.n_frames * means.stage_s[stage] if means.n_frames else 0.0 for means in (figures.prefill, figures.decode)
    )
    share = prompts_s / max(1e-9, prompts_s + decode_s)
    return f" ({_percent(share)} of that for prompts)" if share > 0.5 else ""


def _slots(plan: Plan, load: Load, shares: list[float], busiest: int) -> str:
    n_more = _more_sequences(plan)
    sentence = (
        f"{_taken(load)}, while the busiest worker, {plan.stages[busiest].worker}, computes only "
        f"{_percent(shares[busiest])} of the time: "
    )
    if not n_more:
        return sentence + "more slots would fill it, but the workers have no memory for another (a smaller --context)."
    n_slots = load.n_slots + min(n_more, load.n_waiting)
    return sentence + f"--parallel {n_slots} would fill it more, and the workers have the memory."


def _more_sequences(plan: Plan) -> int:
    """How many more sequences every stage has room for, by what was free when the line was planned."""
    n_now = plan.demand.n_sequences
    n_more = min(_MOST_SEQUENCES, plan.demand.n_batch) - n_now
    for stage in plan.stages:
        per_sequence_bytes = stage.memory.kv_bytes / n_now
        left_bytes = stage.free_bytes - MARGIN_BYTES - stage.memory.device_bytes
        if per_sequence_bytes:
            n_more = min(n_more, int(left_bytes // per_sequence_bytes))
    return max(0, n_more)


def _hops(plan: Plan, means: FrameMeans, shares: list[float]) -> str:
    sentence = (
        f"Hops and handing on take {_percent(means.beside_share)} of each frame's trip ({_ms(means.beside_s)} of "
        f"{_ms(means.trip_s)}): "
    )
    if len(plan.stages) == 1:
        return f"{sentence}the way between the coordinator and {plan.stages[0].worker} is what to make faster."
    if plan.stages[0].host and len({stage.host for stage in plan.stages}) == 1:
        sentence += "fewer workers, where the model fits, would save some (they share a machine)."
    else:
        sentence += "a faster network, or fewer workers where the model fits, would save some."
    return f"{sentence} The workers compute part of the time: {_named(plan, shares)}."


def _few(figures: LineFigures, plan: Plan, load: Load, shares: list[float]) -> Limit:
    if load.n_running == 1 and figures.mean_in_flight <= _ALONE and figures.decode.n_frames:
        if len(shares) == 1:
            what = f"one request alone: {plan.stages[0].worker} computes {_percent(shares[0])} of the time"
        else:
            what = f"one request alone: its tokens pass the workers one after the other ({_named(plan, shares)})"
        return Limit(LimitKind.ONE_STREAM, f"There is {what}. More requests at a time would use what is left.")
    means = main_kind(figures)
    return Limit(
        LimitKind.FEW_FRAMES,
        f"The frames in the line ({figures.mean_in_flight:.1f} at a time, of {means.mean_batch:.0f} tokens) do not "
        f"keep its workers busy ({_named(plan, shares)}). More requests at a time would use what is left.",
    )


def _queue(load: Load) -> str:
    return f" {_taken(load)}." if load.is_full else ""


def _taken(load: Load) -> str:
    requests = "1 request waits" if load.n_waiting == 1 else f"{load.n_waiting} requests wait"
    return f"{'All' if load.n_slots > 1 else 'The'} {_slot_count(load.n_slots)} taken and {requests}"


def _slot_count(n_slots: int) -> str:
    return f"{n_slots} slots are" if n_slots > 1 else "one slot is"


def _named(plan: Plan, shares: list[float]) -> str:
    return ", ".join(f"{stage.worker} {_percent(share)}" for stage, share in zip(plan.stages, shares, strict=True))


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
