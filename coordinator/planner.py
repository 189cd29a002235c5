# SPDX-License-Identifier: MIT
"""Which worker holds which layers. Pure: exact bytes, free memory and measured speed in, a plan that explains itself
(or an error with the numbers) out. Called when a mesh opens, and again with what the workers' dry runs said.

The choice itself is `search`'s, asked by `chooser`: exact for home-lab sizes, the line that makes one stream fastest,
or whose slowest stage is fastest. That one device which holds everything is used alone, and that a slow one is left
out when the model fits without it, follows from the sums; nothing here is a special case but what the user asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coordinator.alternatives import alternatives
from coordinator.candidates import Candidate
from coordinator.chooser import Chooser, Laid, LaidLine, line_of
from coordinator.corrections import changes
from coordinator.errors import DoesNotFitError, NoWorkersError, PlanError
from coordinator.explanation import headline, left_out
from coordinator.plan import Demand, Plan, shown
from coordinator.prediction import Links
from coordinator.refusal import does_not_fit, ram_of
from coordinator.wishes import Wishes, check_wishes
from native import LayerRange
from protos.sizes import size


def make_plan(
    demand: Demand,
    candidates: Sequence[Candidate],
    *,
    wishes: Wishes = Wishes(),  # noqa: B008 -- frozen
    links: Links = Links({}),  # noqa: B008 -- frozen
    notes: Sequence[str] = (),
) -> Plan:
    """Lays the model over the candidates.

    Args:
        links: Between the coordinator and the candidates, as measured.
        notes: What else the plan is to say.

    Raises:
        NoWorkersError: No candidates.
        PlanError: Wishes that contradict the model or each other.
        DoesNotFitError: Memory does not suffice.
    """
    if not candidates:
        raise NoWorkersError("no worker can take part: start one with `caravan worker`")
    check_wishes(demand, candidates, wishes)
    chooser = Chooser(demand, candidates, wishes, links)
    if wishes.layer_ranges is not None:
        by_hand = chooser.plan_of(_manual(chooser, wishes.layer_ranges), notes=notes)
        return by_hand.noting(changes(by_hand))
    solution = chooser.best(chooser.everybody, wishes.objective, use_all=chooser.use_all)
    if solution is None:
        raise _no_plan(chooser)
    plan = chooser.plan_of(line_of(solution), notes=notes)
    plan = plan.noting(changes(plan))
    return replace(
        plan,
        headline=headline(chooser, solution),
        alternatives=() if plan.prediction is None or wishes.pinned else alternatives(chooser, solution),
        left_out=tuple(left_out(chooser, solution, plan.prediction)),
    )


def needs_hosted_experts(demand: Demand, candidates: Sequence[Candidate], wishes: Wishes, links: Links) -> bool:
    """Whether a plan would have to put experts into system memory, so that it is to be known how fast that is.

    Raises:
        PlanError: As `make_plan`.
    """
    check_wishes(demand, candidates, wishes)
    chooser = Chooser(demand, candidates, wishes, links)
    if wishes.layer_ranges is None:
        return bool(candidates) and chooser.must_host
    by_hand = zip(range(len(candidates)), wishes.layer_ranges, strict=False)
    return any((chooser.experts_from(index, layers) or 0) > layers.start for index, layers in by_hand)


def _no_plan(chooser: Chooser) -> DoesNotFitError | PlanError:
    wishes = chooser.wishes
    if wishes.pinned:
        pins = ", ".join(f"{shown(layers)} on {name}" for name, layers in wishes.pinned.items())
        return PlanError(f"there is no plan for {chooser.demand.model} with {pins}: pin less, or somewhere else")
    return does_not_fit(chooser)


def _manual(chooser: Chooser, layer_ranges: Sequence[LayerRange]) -> LaidLine:
    demand, candidates = chooser.demand, chooser.candidates
    asked = ", ".join(f"{layers.start}-{layers.end - 1}" for layers in layer_ranges)
    ends = [0, *(layers.end for layers in layer_ranges)]
    if [layers.start for layers in layer_ranges] != ends[:-1] or ends[-1] != demand.n_layer:
        raise PlanError(
            f"the layers {asked} do not cover {demand.model}: give ranges that follow each other from layer 0 to layer "
            f"{demand.n_layer - 1}"
        )
    if len(layer_ranges) > len(candidates):
        raise PlanError(
            f"{len(layer_ranges)} layer ranges were given for {len(candidates)} workers: give at most one each"
        )
    last, main = candidates[len(layer_ranges) - 1].name, chooser.wishes.main
    if main not in (None, last):
        raise PlanError(f"{main} is to be the main device, and the last of the layer ranges is {last}'s: name it last")
    return tuple(_laid_by_hand(chooser, index, layers) for index, layers in enumerate(layer_ranges))


def _laid_by_hand(chooser: Chooser, index: int, layers: LayerRange) -> Laid:
    experts_from = chooser.experts_from(index, layers)
    if experts_from is not None:
        return Laid(index, layers, experts_from)
    demand, candidate = chooser.demand, chooser.candidates[index]
    needed_bytes = demand.stage_memory(layers, holds_input=candidate.holds_input).total_bytes
    raise DoesNotFitError(
        f"{shown(layers)} of {demand.model} need {size(needed_bytes)} and {candidate.name} "
        f"can give {size(candidate.capacity_bytes)} of {size(candidate.free_bytes)} free"
        f"{ram_of(candidate, demand)}: give it fewer layers",
        needed_bytes=needed_bytes,
        available_bytes=candidate.capacity_bytes + min(candidate.host_capacity_bytes, demand.expert_bytes),
    )
