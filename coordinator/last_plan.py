# SPDX-License-Identifier: MIT
"""The last plan that was carried out, with what it predicted and what was measured: one small JSON file in the user's
cache folder. Kept by `caravan run` and `demo`, shown by `caravan plan --last`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from coordinator.cache import cache_folder
from coordinator.errors import PlanError
from coordinator.plan import Plan

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LastPlan:
    """A plan that was carried out.

    Attributes:
        when_s: Seconds since 1970, when the stream that was measured ended.
        explanation: The plan's, lines for a person.
        predicted_tokens_per_s: Of one stream; None where a device's speed was not known.
        measured_tokens_per_s: Of one stream, decode only.
    """

    when_s: float
    model: str
    explanation: str
    predicted_tokens_per_s: float | None
    measured_tokens_per_s: float

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
        return "\n".join(lines)


def keep_plan(plan: Plan, measured_tokens_per_s: float) -> None:
    """Keeps it in place of the one before; what cannot be written is not worth an error."""
    last = LastPlan(
        when_s=time.time(),
        model=plan.demand.model,
        explanation=plan.explain(),
        predicted_tokens_per_s=None if plan.prediction is None else plan.prediction.tokens_per_s,
        measured_tokens_per_s=measured_tokens_per_s,
    )
    path = _path()
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(asdict(last), indent=2), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        _LOG.info("the plan is not kept: %s", error)


def last_plan() -> LastPlan:
    """The one kept.

    Raises:
        PlanError: There is none that can be read.
    """
    path = _path()
    try:
        return LastPlan(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise PlanError("no plan was carried out yet: `caravan run MODEL PROMPT` keeps the plan it ran by") from None
    except (OSError, ValueError, TypeError) as error:
        raise PlanError(f"{path} cannot be read ({error}): delete it, the next `caravan run` writes another") from error


def _path() -> Path:
    return cache_folder() / "last-plan.json"
