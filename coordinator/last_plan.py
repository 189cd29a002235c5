# SPDX-License-Identifier: MIT
"""The last plan that was carried out, with what it predicted and what was measured: one small JSON file in the user's
cache folder. Kept by `caravan run` and `demo`, shown by `caravan plan --last`; what it teaches the next plan is kept
beside it.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace

from coordinator.cache import keep_json
from coordinator.correction_store import keep_corrections, read_corrections
from coordinator.corrections import learned
from coordinator.errors import PlanError
from coordinator.plan import Plan
from coordinator.timings import MeasuredTokens
from protos.cache_folder import cache_folder

_NAME = "last-plan.json"


@dataclass(frozen=True, slots=True)
class LastStage:
    """Seconds per token that a stage was predicted to compute, and that it computed."""

    worker: str
    predicted_s: float
    measured_s: float


@dataclass(frozen=True, slots=True)
class LastPlan:
    """A plan that was carried out.

    Attributes:
        when_s: Seconds since 1970, when the stream that was measured ended.
        explanation: The plan's, lines for a person.
        predicted_tokens_per_s: Of one stream; None where a device's speed was not known.
        measured_tokens_per_s: Of one stream, decode only.
        stages: In line order; empty where nothing was predicted or measured of them.
        predicted_beside_s: Seconds per token that no stage computes; 0 without stages.
        measured_beside_s: The same, measured.
    """

    when_s: float
    model: str
    explanation: str
    predicted_tokens_per_s: float | None
    measured_tokens_per_s: float
    stages: tuple[LastStage, ...] = ()
    predicted_beside_s: float = 0.0
    measured_beside_s: float = 0.0

    def explain(self) -> str:
        """For a person: the plan, and how right it was."""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.when_s))
        lines = [
            f"carried out {when}",
            self.explanation,
            f"measured: {self.measured_tokens_per_s:.1f} tokens per second for one stream",
        ]
        if self.predicted_tokens_per_s is not None:
            ratio = self.predicted_tokens_per_s / self.measured_tokens_per_s
            lines[-1] += f"; the prediction was {ratio:.2f} of that"
        lines += [
            f"  {stage.worker} computed {_ms(stage.measured_s)} per token; predicted {_ms(stage.predicted_s)}"
            for stage in self.stages
        ]
        if self.stages:
            beside = f"{_ms(self.measured_beside_s)} per token; predicted {_ms(self.predicted_beside_s)}"
            lines.append(f"  hops and handing on took {beside}")
        return "\n".join(lines)


def keep_plan(plan: Plan, measured_tokens_per_s: float, measured: MeasuredTokens | None = None) -> None:
    """Keeps it in place of the one before, and what it taught."""
    prediction = plan.prediction
    last = LastPlan(
        when_s=time.time(),
        model=plan.demand.model,
        explanation=plan.explain(),
        predicted_tokens_per_s=None if prediction is None else prediction.tokens_per_s,
        measured_tokens_per_s=measured_tokens_per_s,
    )
    if prediction is not None and measured is not None and len(measured.stage_s) == len(plan.stages):
        seconds = zip(plan.stages, prediction.computes_s, measured.stage_s, strict=True)
        last = replace(
            last,
            stages=tuple(LastStage(stage.worker, predicted_s, real_s) for stage, predicted_s, real_s in seconds),
            predicted_beside_s=prediction.token_s - sum(prediction.computes_s),
            measured_beside_s=measured.beside_s,
        )
        _keep_what_it_taught(plan, measured)
    keep_json(_NAME, asdict(last))


def _keep_what_it_taught(plan: Plan, measured: MeasuredTokens) -> None:
    identity = plan.demand.identity
    taught = learned(plan, measured, read_corrections(identity)) if identity else {}
    if taught:
        keep_corrections(identity, taught)


def last_plan() -> LastPlan:
    """The one kept.

    Raises:
        PlanError: There is none that can be read.
    """
    path = cache_folder() / _NAME
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return LastPlan(**kept | {"stages": tuple(LastStage(**stage) for stage in kept.get("stages", ()))})
    except FileNotFoundError:
        raise PlanError("no plan was carried out yet: `caravan run MODEL PROMPT` keeps the plan it ran by") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise PlanError(f"{path} cannot be read ({error}): delete it, the next `caravan run` writes another") from error


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
