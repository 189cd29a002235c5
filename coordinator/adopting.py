# SPDX-License-Identifier: MIT
"""A line that another coordinator left on the workers: planned again as it was where that is about as good as the best,
so that its stages are taken over without loading. Used when a mesh opens, on its event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coordinator.confirming import PlanOrder, confirmed_plans
from coordinator.errors import DoesNotFitError, PlanError
from coordinator.events import OnProgress, ignore
from coordinator.plan import Plan
from coordinator.regrouping import near_enough
from coordinator.wishes import Distribution, Wishes
from coordinator.workers import FoundWorker
from native import LayerRange

_ADOPTED = "adopted"
"""As the session of a plan that goes on with what is there: what was measured for the first plan is not measured again,
and what it takes over is nobody's."""


async def plans_of(order: PlanOrder, on_progress: OnProgress, *, notes: Sequence[str] = ()) -> list[Plan]:
    """As `confirmed_plans`; one line that lies on the workers already, whole, stays where it is unless the best plan is
    much better."""
    plans = await confirmed_plans(order, on_progress, notes=notes)
    kept = whole_line(order.workers, order.demand.n_layer) if _may_keep(order.wishes) else {}
    if not kept or len(kept) > (order.wishes.most_stages or len(kept)) or kept == plans[0].ranges:
        return plans
    keeping = replace(order, wishes=replace(order.wishes, pinned=kept), session_id=_ADOPTED)
    try:
        adopted = await confirmed_plans(keeping, ignore, notes=notes)
    except (PlanError, DoesNotFitError):
        return plans
    if order.wishes.distribution is Distribution.ON and len(adopted[0].stages) < len(plans[0].stages):
        return plans  # as many as possible are to take part
    return [near_enough([*adopted, *plans], order.wishes.objective)]


def whole_line(workers: Sequence[FoundWorker], n_layer: int) -> dict[str, LayerRange]:
    """The layers that workers hold, by name, if together they are a line of so many layers; else none. Whether they are
    of this model is for the workers to say, when they are told to load it."""
    held = {worker.name: stage.layers for worker in workers for stage in worker.loaded if not stage.is_serving}
    ranges = sorted(held.values(), key=lambda layers: layers.start)
    ends = [0, *(layers.end for layers in ranges)]
    is_whole = [layers.start for layers in ranges] == ends[:-1] and ends[-1] == n_layer
    return held if is_whole else {}


def _may_keep(wishes: Wishes) -> bool:
    """Whether nobody says which layers go where, or how many lines there are to be."""
    return (
        wishes.layer_ranges is None
        and not wishes.pinned
        and wishes.replicas == 1
        and wishes.main is None
        and wishes.gpu_layers is None
    )
