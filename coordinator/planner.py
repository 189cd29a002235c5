# SPDX-License-Identifier: MIT
"""Which worker holds which layers. Pure: exact bytes, free memory and measured speed in, a plan that explains itself
(or an error with the numbers) out. Called when a mesh opens, and again with what the workers' dry runs said.

The choice itself is `search`'s, exact for home-lab sizes: the line that makes one stream fastest, or whose slowest
stage is fastest. That one device which holds everything is used alone, and that a slow one is left out when the model
fits without it, follows from the sums; nothing here is a special case but what the user asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from coordinator.candidates import Candidate
from coordinator.errors import DoesNotFitError, NoWorkersError, PlanError
from coordinator.fitting import does_not_fit
from coordinator.plan import Alternative, Demand, Plan, Stage, shown, size
from coordinator.prediction import (
    COORDINATOR,
    STAGE_OVERHEAD_S,
    Links,
    PredictedStage,
    Prediction,
    hidden_state_bytes,
    predict,
)
from coordinator.search import EXACT_MACHINES, Machine, Objective, Problem, Solution, solve
from coordinator.speed import Curve, Speed
from native import LayerRange

_GUESSED_BYTES_PER_S = 20e9
"""How fast a device that could not be measured is taken to read its weights: as a desktop's memory."""


class Distribution(str, Enum):
    """How many devices a model may be laid over: as many as it pays, all that can hold a layer, or one."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asks of a plan.

    Attributes:
        layer_ranges: Manual ranges for the first so many candidates, in order; they cover the model.
        pinned: Ranges that these workers hold, by name; the rest is the planner's.
        max_stages: Of a line, at most.
        replicas: So many lines, each over workers of its own; None: as many as find room. A plan is of one line; who
            makes several gives each the workers that it may have.
    """

    distribution: Distribution = Distribution.AUTO
    objective: Objective = Objective.LATENCY
    layer_ranges: tuple[LayerRange, ...] | None = None
    pinned: Mapping[str, LayerRange] = field(default_factory=dict)
    max_stages: int | None = None
    replicas: int | None = 1

    @property
    def shares_devices(self) -> bool:
        """Whether several workers on one device may all take part: if the user says who does what."""
        return self.distribution is Distribution.ON or self.layer_ranges is not None or bool(self.pinned)


def make_plan(
    demand: Demand,
    candidates: Sequence[Candidate],
    *,
    wishes: Wishes = Wishes(),
    links: Links = Links({}),  # noqa: B008 -- frozen
    notes: Sequence[str] = (),
) -> Plan:
    """Lays the model over the candidates.

    Args:
        links: Between the coordinator and the candidates, as measured.
        notes: What else the plan is to say.

    Raises:
        NoWorkersError: No candidates.
        PlanError: Manual ranges that do not cover the model or cannot be had.
        DoesNotFitError: Memory does not suffice.
    """
    if not candidates:
        raise NoWorkersError("no worker can take part: start one with `caravan worker`")
    planning = _Planning(demand, candidates, wishes, links)
    if wishes.layer_ranges is not None:
        return planning.plan_of(_manual(demand, candidates, wishes.layer_ranges), notes=notes)
    return planning.chosen(notes)


class _Planning:
    """One search over one set of candidates, and what it looked at beside the answer."""

    def __init__(self, demand: Demand, candidates: Sequence[Candidate], wishes: Wishes, links: Links) -> None:
        self._demand = demand
        self._candidates = candidates
        self._wishes = wishes
        self._links = links
        self._speeds = [candidate.speed or _guessed(demand) for candidate in candidates]
        _check_pins(demand, candidates, wishes)

    def chosen(self, notes: Sequence[str]) -> Plan:
        """The plan that the wishes ask for."""
        wishes = self._wishes
        solution = self._solve(
            range(len(self._candidates)), wishes.objective, use_all=wishes.distribution is Distribution.ON
        )
        if solution is None:
            raise self._no_plan()
        plan = self.plan_of(solution.stages, notes=notes)
        return replace(
            plan,
            headline=self._headline(solution),
            alternatives=tuple(self._alternatives(solution, plan.prediction)),
            left_out=tuple(self._left_out(solution, plan.prediction)),
        )

    def plan_of(self, stages: Sequence[tuple[int, LayerRange]], *, notes: Sequence[str]) -> Plan:
        """A plan with these stages, predicted where all of their speeds are known."""
        made = tuple(self._stage(index, layers) for index, layers in stages)
        return Plan(self._demand, made, tuple(notes), prediction=self._predicted(stages))

    def _stage(self, index: int, layers: LayerRange) -> Stage:
        candidate = self._candidates[index]
        return Stage(
            worker=candidate.name,
            address=candidate.address,
            device=candidate.device,
            layers=layers,
            memory=self._demand.stage_memory(layers, holds_input=candidate.holds_input),
            free_bytes=candidate.free_bytes,
        )

    def _predicted(self, stages: Sequence[tuple[int, LayerRange]]) -> Prediction | None:
        if any(self._candidates[index].speed is None for index, _ in stages):
            return None
        demand = self._demand
        predicted = [PredictedStage(self._candidates[i].name, layers, self._speeds[i]) for i, layers in stages]
        return predict(
            predicted,
            self._links,
            n_embd=demand.n_embd,
            n_sequences=demand.n_sequences,
            n_batch=demand.n_batch,
            n_ctx=demand.n_ctx,
        )

    def _solve(self, members: Sequence[int], objective: Objective, *, use_all: bool = False) -> Solution | None:
        """The best line over these candidates; the solution counts all candidates."""
        problem = self._problem(members, objective)
        solution = solve(problem, objective, use_all=use_all)
        if solution is None:
            return None
        return replace(solution, stages=tuple((members[index], layers) for index, layers in solution.stages))

    def _problem(self, members: Sequence[int], objective: Objective) -> Problem:
        demand, links = self._demand, self._links
        n_tokens = 1 if objective is Objective.LATENCY else demand.n_sequences
        names = [self._candidates[index].name for index in members]
        n_bytes = hidden_state_bytes(demand.n_embd, n_tokens)
        return Problem(
            layer_bytes=tuple(layer.weights_bytes + layer.kv_bytes for layer in demand.costs.layers),
            machines=tuple(self._machine(index, n_tokens) for index in members),
            hop_s=tuple(tuple(0.0 if a == b else links.one_way_s(a, b, n_bytes) for b in names) for a in names),
            entry_s=tuple(links.one_way_s(COORDINATOR, name, 0) for name in names),
            exit_s=tuple(links.one_way_s(name, COORDINATOR, 0) for name in names),
            max_stages=self._most_stages(),
        )

    def _machine(self, index: int, n_tokens: int) -> Machine:
        candidate, speed, costs = self._candidates[index], self._speeds[index], self._demand.costs
        return Machine(
            capacity_bytes=candidate.capacity_bytes,
            input_bytes=costs.input_bytes if candidate.holds_input else 0,
            output_bytes=max(0, costs.output_bytes + self._demand.output_compute_bytes),
            layer_s=tuple(speed.layer_s(layer, n_tokens) for layer in range(self._demand.n_layer)),
            output_s=speed.output.at(n_tokens),
            step_s=STAGE_OVERHEAD_S,
            pinned=self._wishes.pinned.get(candidate.name),
        )

    # ---- the explanation ----

    def _headline(self, solution: Solution) -> str:
        """The first thing to know: whether it is split, and why."""
        if len(solution.stages) == 1:
            if len(self._candidates) == 1 or self._wishes.distribution is Distribution.OFF:
                return ""
            name = self._candidates[solution.stages[0][0]].name
            return f"not split: {name} can hold it all, and one stream is fastest there"
        if self._wishes.distribution is Distribution.ON or self._wishes.pinned:
            return ""
        if self._alone() is not None:
            return f"split over {len(solution.stages)} devices, because that is faster than one alone"
        return f"split over {len(solution.stages)} devices, because none can hold it alone"

    def _alternatives(self, chosen: Solution, prediction: Prediction | None) -> list[Alternative]:
        """The other lines that people ask about, as far as they are others."""
        if prediction is None or self._wishes.pinned:
            return []
        seen = [chosen.stages]
        alternatives = []
        for label, solution in self._ways():
            if solution is None or solution.stages in seen:
                continue
            seen.append(solution.stages)
            predicted = self._predicted(solution.stages)
            if predicted is not None:
                named = tuple((self._candidates[index].name, layers) for index, layers in solution.stages)
                alternatives.append(Alternative(label, named, predicted))
        return alternatives

    def _ways(self) -> Iterator[tuple[str, Solution | None]]:
        everybody = range(len(self._candidates))
        yield "one device alone", self._alone()
        if len(everybody) > EXACT_MACHINES:
            return  # the other searches would take longer than the plan itself
        if self._wishes.distribution is not Distribution.ON:
            yield "all devices", self._solve(everybody, Objective.THROUGHPUT, use_all=True)
        if self._wishes.objective is Objective.LATENCY:
            yield "for many streams", self._solve(everybody, Objective.THROUGHPUT)
        else:
            yield "for one stream", self._solve(everybody, Objective.LATENCY)

    def _alone(self) -> Solution | None:
        """The fastest device that can hold it all."""
        singles = [self._solve([index], Objective.LATENCY) for index in range(len(self._candidates))]
        return min((single for single in singles if single is not None), key=lambda s: s.latency_s, default=None)

    def _left_out(self, solution: Solution, prediction: Prediction | None) -> list[tuple[str, str]]:
        used = {index for index, _ in solution.stages}
        return [
            (candidate.name, self._why_left_out(index, solution, prediction))
            for index, candidate in enumerate(self._candidates)
            if index not in used
        ]

    def _why_left_out(self, index: int, solution: Solution, prediction: Prediction | None) -> str:
        candidate = self._candidates[index]
        smallest = min(layer.weights_bytes + layer.kv_bytes for layer in self._demand.costs.layers)
        room = (
            f"it can give {size(candidate.capacity_bytes)} of {size(candidate.free_bytes)} free, and one layer "
            f"with its KV cache takes {size(smallest)}"
        )
        if candidate.capacity_bytes < smallest:
            return room
        members = [*(used for used, _ in solution.stages), index]
        with_it = None
        if prediction is not None and len(members) <= EXACT_MACHINES:
            with_it = self._solve(members, self._wishes.objective, use_all=True)
        if with_it is None or len(with_it.stages) < len(members):
            machine = self._machine(index, 1)
            first, last = size(smallest + machine.input_bytes), size(smallest + machine.output_bytes)
            return (
                f"no layer for it fits beside the others': {room} ({first} at the start of the line, {last} at its end)"
            )
        predicted = self._predicted(with_it.stages)
        if prediction is None or predicted is None:
            return "the model fits without it"
        if self._wishes.objective is Objective.LATENCY:
            return (
                f"the model fits without it, and with it one stream would make {predicted.tokens_per_s:.1f} tokens per "
                f"second instead of {prediction.tokens_per_s:.1f}"
            )
        return "the model fits without it, and with it the slowest stage would be no faster"

    def _no_plan(self) -> DoesNotFitError | PlanError:
        if self._wishes.pinned:
            pins = ", ".join(f"{shown(layers)} on {name}" for name, layers in self._wishes.pinned.items())
            return PlanError(f"there is no plan for {self._demand.model} with {pins}: pin less, or somewhere else")
        return does_not_fit(self._demand, self._candidates, most=self._most_stages())

    def _most_stages(self) -> int | None:
        return 1 if self._wishes.distribution is Distribution.OFF else self._wishes.max_stages


def _guessed(demand: Demand) -> Speed:
    """For a device that could not be measured: as long as its memory takes to read each layer."""
    curves = tuple(Curve(((1, layer.weights_bytes / _GUESSED_BYTES_PER_S),)) for layer in demand.costs.layers)
    return Speed(tuple(range(demand.n_layer)), curves, Curve(((1, demand.costs.output_bytes / _GUESSED_BYTES_PER_S),)))


def _check_pins(demand: Demand, candidates: Sequence[Candidate], wishes: Wishes) -> None:
    names = [candidate.name for candidate in candidates]
    for name, layers in wishes.pinned.items():
        if name not in names:
            raise PlanError(f"layers are given to {name}, which does not take part; there are: {', '.join(names)}")
        if layers.end > demand.n_layer:
            raise PlanError(f"{shown(layers)} are given to {name}, and {demand.model} has {demand.n_layer} layers")


def _manual(
    demand: Demand, candidates: Sequence[Candidate], layer_ranges: Sequence[LayerRange]
) -> list[tuple[int, LayerRange]]:
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
    for candidate, layers in zip(candidates, layer_ranges, strict=False):
        needed_bytes = demand.stage_memory(layers, holds_input=candidate.holds_input).total_bytes
        if needed_bytes > candidate.capacity_bytes:
            raise DoesNotFitError(
                f"{shown(layers)} of {demand.model} need {size(needed_bytes)} and {candidate.name} "
                f"can give {size(candidate.capacity_bytes)} of {size(candidate.free_bytes)} free: give it fewer layers",
                needed_bytes=needed_bytes,
                available_bytes=candidate.capacity_bytes,
            )
    return list(enumerate(layer_ranges))
