# SPDX-License-Identifier: MIT
"""The best lines over some candidates: the planner's bridge to the search. Turns exact bytes, speeds and wishes into
problems, and solutions into stages with their predictions. Pure; called by the planner and by what explains its plans.

Experts lie in system memory only where GPU memory does not suffice: where there is no line over the GPUs alone (or over
everybody, without GPUs) that does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from coordinator.candidates import Candidate, beside_experts
from coordinator.plan import Demand, Plan, Stage
from coordinator.prediction import (
    COORDINATOR,
    Links,
    PredictedStage,
    Prediction,
    hidden_state_bytes,
    predict,
)
from coordinator.quantisations import with_weights
from coordinator.search import Machine, Objective, Problem, Solution, solve
from coordinator.speed import Curve, Speed
from coordinator.wishes import Distribution, Wishes
from native import LayerRange

_GUESSED_BYTES_PER_S = 20e9
"""How fast memory is taken to be read where it could not be measured: as a desktop's."""


@dataclass(frozen=True, slots=True)
class Laid:
    """A stage of a line: which candidate, which layers, and before which of them experts lie in system memory."""

    index: int
    layers: LayerRange
    experts_from: int


LaidLine = tuple[Laid, ...]
"""Together they cover the model."""


@dataclass(frozen=True)
class Chooser:
    """Candidates for a model, what is wished for, and the links between them and the coordinator."""

    demand: Demand
    candidates: Sequence[Candidate]
    wishes: Wishes
    links: Links
    _known: dict[object, Solution | None] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What was looked for already."""

    @property
    def use_all(self) -> bool:
        """Whether as many as possible are to take part."""
        return self.wishes.distribution is Distribution.ON

    def with_weights(self, factor: float) -> Chooser:
        """The same for the model with so many times its bytes of weights."""
        candidates = [
            replace(each, speed=None if each.speed is None else each.speed.stretched(factor))
            for each in self.candidates
        ]
        return Chooser(with_weights(self.demand, factor), candidates, self.wishes, self.links)

    @property
    def everybody(self) -> list[int]:
        """All who may hold a layer."""
        n_layer = self.demand.n_layer
        return [i for i, each in enumerate(self.candidates) if self.wishes.place_of(each, n_layer) is not None]

    @cached_property
    def can_host(self) -> bool:
        """Whether there are experts, and system memory for some of them."""
        return self.demand.expert_bytes > 0 and any(each.host_capacity_bytes for each in self.candidates)

    @cached_property
    def must_host(self) -> bool:
        """Whether GPU memory does not suffice, and system memory may help."""
        if not self.can_host:
            return False
        members = self.everybody
        gpus = [index for index in members if not self.candidates[index].is_cpu]
        is_free = self.wishes.gpu_layers is None and not self.wishes.pinned
        if gpus and is_free and self.wishes.main in (None, *(self.candidates[index].name for index in gpus)):
            members = gpus
        return self.solved(members, self.wishes.objective) is None

    def best(self, members: Sequence[int], objective: Objective, *, use_all: bool = False) -> Solution | None:
        """The best line over these candidates, with experts in system memory where that must be."""
        plain = self.solved(members, objective, use_all=use_all)
        if not self.must_host:
            return plain
        hosted = self.solved(members, objective, use_all=use_all, hosted=True)
        found = [solution for solution in (plain, hosted) if solution is not None]
        return min(found, key=lambda solution: _rank(solution, objective, use_all), default=None)

    def solved(
        self,
        members: Sequence[int],
        objective: Objective,
        *,
        use_all: bool = False,
        hosted: bool = False,
        max_stages: int | None = None,
    ) -> Solution | None:
        """The best line over these candidates; the solution counts all candidates.

        Args:
            hosted: Whether experts may lie in system memory.
            max_stages: At most; None: as wished for.
        """
        asked = (tuple(members), objective, use_all, hosted, max_stages)
        if asked not in self._known:
            solution = solve(self._problem(members, objective, hosted, max_stages), objective, use_all=use_all)
            if solution is not None:
                stages = tuple((members[index], layers) for index, layers in solution.stages)
                solution = replace(solution, stages=stages)
            self._known[asked] = solution
        return self._known[asked]

    def alone(self) -> Solution | None:
        """The fastest device that can hold it all."""
        singles = [self.best([index], Objective.LATENCY) for index in self.everybody]
        return min((single for single in singles if single is not None), key=lambda s: s.latency_s, default=None)

    def experts_from(self, index: int, layers: LayerRange) -> int | None:
        """Before which layer of a range by hand experts have to lie in system memory; None: it does not fit like that.
        What the output layer computes in is left to the dry run."""
        for hosted in (False, True):
            problem = self._problem([index], Objective.LATENCY, hosted, None)
            machine = replace(problem.machines[0], output_bytes=self.demand.costs.output_bytes)
            experts_from = replace(problem, machines=(machine,)).experts_from(0, layers)
            if experts_from is not None:
                return experts_from
        return None

    def plan_of(self, line: LaidLine, *, notes: Sequence[str]) -> Plan:
        """A plan with these stages, predicted where all of their speeds are known."""
        return Plan(self.demand, tuple(map(self._stage, line)), tuple(notes), prediction=self.predicted(line))

    def predicted(self, line: LaidLine) -> Prediction | None:
        """What a line will do; None where a speed is not known."""
        stages = []
        for laid in line:
            candidate, speed = self.candidates[laid.index], self.candidates[laid.index].speed
            if speed is None or (laid.experts_from > laid.layers.start and speed.hosted is None):
                return None
            stages.append(PredictedStage(candidate.name, laid.layers, speed, laid.experts_from, candidate.overhead_s))
        demand = self.demand
        return predict(
            stages,
            self.links,
            n_embd=demand.n_embd,
            n_sequences=demand.n_sequences,
            n_batch=demand.n_batch,
            n_ctx=demand.n_ctx,
        )

    def machine(self, index: int, n_tokens: int, *, hosted: bool = False) -> Machine:
        """A candidate as the search sees it, for batches of so many tokens."""
        candidate, demand = (self._beside_experts if hosted else self.candidates)[index], self.demand
        speed, n_layer, costs = self._speeds[index], demand.n_layer, demand.costs
        return Machine(
            capacity_bytes=candidate.capacity_bytes,
            input_bytes=costs.input_bytes if candidate.holds_input else 0,
            output_bytes=max(0, costs.output_bytes + demand.output_compute_bytes),
            layer_s=tuple(speed.layer_s(layer, n_tokens) for layer in range(n_layer)),
            output_s=speed.output.at(n_tokens),
            step_s=candidate.overhead_s,
            pinned=self.wishes.pinned.get(candidate.name),
            within=self.wishes.place_of(candidate, n_layer),
            is_main=candidate.name == self.wishes.main,
            host_bytes=candidate.host_capacity_bytes if hosted else 0,
            host_input_bytes=0 if candidate.holds_input else costs.input_bytes,
            host_layer_s=tuple(speed.layer_s(layer, n_tokens, is_hosted=True) for layer in range(n_layer))
            if hosted
            else None,
        )

    @cached_property
    def _beside_experts(self) -> list[Candidate]:
        return beside_experts(self.candidates, self.demand.expert_bytes)

    @cached_property
    def _speeds(self) -> list[Speed]:
        return [_with_hosted(each.speed or _guessed(self.demand), self.demand) for each in self.candidates]

    def _stage(self, laid: Laid) -> Stage:
        candidate, demand = self.candidates[laid.index], self.demand
        n_cpu_moe = demand.n_cpu_moe(laid.layers, laid.experts_from)
        return Stage(
            worker=candidate.name,
            address=candidate.address,
            device=candidate.device,
            layers=laid.layers,
            memory=demand.stage_memory(laid.layers, holds_input=candidate.holds_input, n_cpu_moe=n_cpu_moe),
            free_bytes=candidate.free_bytes,
            n_cpu_moe=n_cpu_moe,
            host=candidate.host,
            speed_factor=candidate.speed_factor,
        )

    def _problem(self, members: Sequence[int], objective: Objective, hosted: bool, max_stages: int | None) -> Problem:
        demand, links = self.demand, self.links
        n_tokens = 1 if objective is Objective.LATENCY else demand.n_sequences
        names = [self.candidates[index].name for index in members]
        n_bytes = hidden_state_bytes(demand.n_embd, n_tokens)
        layers = demand.costs.layers
        return Problem(
            layer_bytes=tuple(layer.weights_bytes + layer.kv_bytes for layer in layers),
            machines=tuple(self.machine(index, n_tokens, hosted=hosted) for index in members),
            hop_s=tuple(tuple(0.0 if a == b else links.one_way_s(a, b, n_bytes) for b in names) for a in names),
            entry_s=tuple(links.one_way_s(COORDINATOR, name, 0) for name in names),
            exit_s=tuple(links.one_way_s(name, COORDINATOR, 0) for name in names),
            max_stages=self.wishes.most_stages if max_stages is None else max_stages,
            expert_bytes=tuple(layer.expert_bytes for layer in layers) if hosted else (),
        )


def line_of(solution: Solution) -> LaidLine:
    """A solution's stages."""
    return tuple(
        Laid(index, layers, start)
        for (index, layers), start in zip(solution.stages, solution.experts_from, strict=True)
    )


def _rank(solution: Solution, objective: Objective, use_all: bool) -> tuple[float, ...]:
    """Less is better."""
    latency_s, bottleneck_s = solution.latency_s, solution.bottleneck_s
    if use_all:
        return -len(solution.stages), bottleneck_s, latency_s
    return (latency_s, bottleneck_s) if objective is Objective.LATENCY else (bottleneck_s, latency_s)


def _guessed(demand: Demand) -> Speed:
    """For a device that could not be measured: as long as its memory takes to read each layer."""
    curves = tuple(Curve(((1, layer.weights_bytes / _GUESSED_BYTES_PER_S),)) for layer in demand.costs.layers)
    return Speed(tuple(range(demand.n_layer)), curves, Curve(((1, demand.costs.output_bytes / _GUESSED_BYTES_PER_S),)))


def _with_hosted(speed: Speed, demand: Demand) -> Speed:
    """Where it was not measured how long layers take with their experts in system memory: as much longer as that takes
    to be read, whole."""
    if speed.hosted is not None:
        return speed
    expert_bytes = dict(zip(speed.kinds, (layer.expert_bytes for layer in demand.costs.layers), strict=True))
    hosted = tuple(curve.later(expert_bytes[kind] / _GUESSED_BYTES_PER_S) for kind, curve in enumerate(speed.layers))
    return replace(speed, hosted=hosted)
