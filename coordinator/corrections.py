# SPDX-License-Identifier: MIT
"""What earlier runs teach the next plan: how much longer a device took for a model's layers than it was measured to
take, and what handing on a frame took there. Pure; `last_plan` tells it of a run, `confirming` applies it.

A benchmark computes layers alone, hot and with a short text; a run shares the machine with everything else. Neither is
wrong, and what people see is the run. One run moves a correction half of its way, and no further than to half or twice
the benchmark: what is off by more is no matter of degree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from coordinator.candidates import Candidate
from coordinator.plan import Plan
from coordinator.prediction import STAGE_OVERHEAD_S
from coordinator.timings import MeasuredTokens

MIN_TOKENS = 16
"""Fewer say little about speed."""

_FACTORS = (0.5, 2.0)
_MOST_OVERHEAD_S = 0.02
"""More is a network that was busy, or a machine that was."""

_SHOWN = 0.1
"""A figure that changes by more, relatively, is worth a note."""


@dataclass(frozen=True, slots=True)
class Correction:
    """Of one device for one model.

    Attributes:
        factor: How many times as long as measured it takes to compute.
        overhead_s: What it takes to hand on a frame.
    """

    factor: float = 1.0
    overhead_s: float = STAGE_OVERHEAD_S

    def __post_init__(self) -> None:
        low, high = _FACTORS
        if not (low <= self.factor <= high and 0 <= self.overhead_s <= _MOST_OVERHEAD_S):
            raise ValueError(f"a correction by {self.factor}, and {self.overhead_s} s beside it, is none")


NO_CORRECTION = Correction()


def place_of(host: str, device: str) -> str:
    """What a correction is kept under."""
    return f"{host} {device}"


def learned(plan: Plan, measured: MeasuredTokens, known: Mapping[str, Correction]) -> dict[str, Correction]:
    """What a run by that plan teaches, by place; empty where it was too short or nothing was predicted.

    Args:
        known: From before, by place.
    """
    prediction = plan.prediction
    if prediction is None or measured.n_tokens < MIN_TOKENS or len(measured.stage_s) != len(plan.stages):
        return {}
    overhead_s = max(0.0, measured.beside_s - prediction.hops_s) / len(plan.stages)
    places: dict[str, list[int]] = {}
    for number, stage in enumerate(plan.stages):
        if stage.host:
            places.setdefault(place_of(stage.host, stage.device), []).append(number)
    corrections = {}
    for place, numbers in places.items():
        predicted_s = sum(prediction.computes_s[number] for number in numbers)
        measured_s = sum(measured.stage_s[number] for number in numbers)
        if predicted_s > 0:
            # The prediction has a factor already; half of the way on a scale of ratios.
            factor = plan.stages[numbers[0]].speed_factor * math.sqrt(measured_s / predicted_s)
            old = known.get(place, NO_CORRECTION)
            corrections[place] = Correction(
                _within(factor, *_FACTORS), _within((old.overhead_s + overhead_s) / 2, 0.0, _MOST_OVERHEAD_S)
            )
    return corrections


def corrected(candidate: Candidate, corrections: Mapping[str, Correction]) -> Candidate:
    """The candidate with what is known of its device."""
    correction = corrections.get(place_of(candidate.host, candidate.device), NO_CORRECTION)
    if candidate.speed is None or correction == NO_CORRECTION:
        return candidate
    return replace(
        candidate,
        speed=candidate.speed.stretched(correction.factor),
        speed_factor=correction.factor,
        overhead_s=correction.overhead_s,
    )


def changes(plan: Plan) -> list[str]:
    """A sentence for each stage whose time per token earlier runs have changed by more than a tenth."""
    if plan.prediction is None:
        return []
    sentences = []
    for stage, stage_s, computes_s in zip(
        plan.stages, plan.prediction.stage_s, plan.prediction.computes_s, strict=True
    ):
        benchmark_s = computes_s / stage.speed_factor + STAGE_OVERHEAD_S
        if abs(stage_s / benchmark_s - 1) > _SHOWN:
            sentences.append(
                f"{stage.worker} is counted with {stage_s * 1000:.1f} ms per token, as earlier runs there say, and not "
                f"with the {benchmark_s * 1000:.1f} ms of its benchmark"
            )
    return sentences


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
