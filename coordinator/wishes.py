# SPDX-License-Identifier: MIT
"""What the user asks of a plan, and whether it can be had of some candidates at all. Pure values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from coordinator.candidates import Candidate
from coordinator.errors import PlanError
from coordinator.plan import Demand, shown
from coordinator.search import Objective
from native import LayerRange


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
        main: The worker that is the last of the line, and with `Distribution.OFF` the only one.
        gpu_layers: So many layers, the last ones, lie on GPUs and all others on CPUs; None: the planner's choice.
    """

    distribution: Distribution = Distribution.AUTO
    objective: Objective = Objective.LATENCY
    layer_ranges: tuple[LayerRange, ...] | None = None
    pinned: Mapping[str, LayerRange] = field(default_factory=dict)
    max_stages: int | None = None
    replicas: int | None = 1
    main: str | None = None
    gpu_layers: int | None = None

    @property
    def shares_devices(self) -> bool:
        """Whether several workers on one device may all take part: if the user says who does what."""
        return self.distribution is Distribution.ON or self.layer_ranges is not None or bool(self.pinned)

    @property
    def most_stages(self) -> int | None:
        """Of a line; None: any number."""
        return 1 if self.distribution is Distribution.OFF else self.max_stages

    def place_of(self, candidate: Candidate, n_layer: int) -> LayerRange | None:
        """The layers of which the candidate may hold some; None: it may hold none."""
        if self.gpu_layers is None:
            return LayerRange(0, n_layer)
        cut = max(0, n_layer - self.gpu_layers)
        start, end = (0, cut) if candidate.is_cpu else (cut, n_layer)
        return LayerRange(start, end) if start < end else None


def check_wishes(demand: Demand, candidates: Sequence[Candidate], wishes: Wishes) -> None:
    """Whether those who are named are there, and can have what they are to have.

    Raises:
        PlanError: They are not, or cannot.
    """
    named = {candidate.name: candidate for candidate in candidates}
    there = ", ".join(named)
    for name, layers in wishes.pinned.items():
        if name not in named:
            raise PlanError(f"layers are given to {name}, which does not take part; there are: {there}")
        if layers.end > demand.n_layer:
            raise PlanError(f"{shown(layers)} are given to {name}, and {demand.model} has {demand.n_layer} layers")
    if wishes.main is not None and wishes.main not in named:
        raise PlanError(f"{wishes.main} is to be the main device, and does not take part; there are: {there}")
    if wishes.gpu_layers is None:
        return
    _check_gpu_layers(demand, candidates, wishes.gpu_layers)
    for name in (*wishes.pinned, *([] if wishes.main is None else [wishes.main])):
        if wishes.place_of(named[name], demand.n_layer) is None:
            raise PlanError(
                f"{name} is to take part, and with {wishes.gpu_layers} of {demand.n_layer} layers on GPUs it gets "
                "none: leave out one of the two"
            )


def _check_gpu_layers(demand: Demand, candidates: Sequence[Candidate], gpu_layers: int) -> None:
    n_on_cpus = max(0, demand.n_layer - gpu_layers)
    if n_on_cpus and not any(candidate.is_cpu for candidate in candidates):
        raise PlanError(
            f"{n_on_cpus} of the {demand.n_layer} layers of {demand.model} are to lie on CPUs (--gpu-layers "
            f"{gpu_layers}), and no CPU worker takes part: start one with `caravan worker --device CPU`, or leave "
            "--gpu-layers out"
        )
    if gpu_layers and all(candidate.is_cpu for candidate in candidates):
        raise PlanError(
            f"{min(gpu_layers, demand.n_layer)} of the {demand.n_layer} layers of {demand.model} are to lie on GPUs "
            f"(--gpu-layers {gpu_layers}), and no GPU worker takes part: start one with `caravan worker`, or give "
            "--gpu-layers 0"
        )
