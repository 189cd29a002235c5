# SPDX-License-Identifier: MIT
"""`caravan plan MODEL`: who would hold what, and why; nothing is loaded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from coordinator.cli.console import emit
from coordinator.cli.interrupts import interruptible
from coordinator.cli.line import open_arguments
from coordinator.cli.options import LayersOption, LineOptions, line_options, option
from coordinator.cli.progress import load_progress
from coordinator.cli.settings import debug_option, source_of
from coordinator.inventory import plan_inventory
from coordinator.last_plan import last_plan
from coordinator.opening import plan_mesh
from coordinator.options import MeshOptions
from coordinator.plan import Alternative, Plan
from coordinator.prediction import Prediction

_NO_NAMES: dict[str, Any] = {"only": (), "exclude": (), "layers": LayersOption()}
"""The options that go by workers' names, when they name none."""


@click.command("plan")
@click.argument("model", required=False)
@option("--last", is_flag=True, help="Show the plan that `caravan run` or `demo` last ran by, and how right it was.")
@option("--json", "as_json", is_flag=True, help="Print JSON; progress too, on stderr.")
@option(
    "--inventory",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Plan for the machines of a TOML file, from data sheets, and ask no worker.",
)
@line_options
@debug_option
def command(model: str | None, last: bool, as_json: bool, inventory: Path | None, line: LineOptions) -> None:
    """Show which worker would hold which layers of MODEL, and how fast it would be; nothing is loaded, and no worker is
    started.

    \b
    caravan plan model.gguf --context 8192
    caravan plan model.gguf --inventory machines.toml
    """
    if (model is None) is not last:
        raise click.UsageError("give either MODEL or --last")
    if inventory is not None:
        line = _without_network(line)
    if model is None:
        kept = last_plan()
        emit((json.dumps(asdict(kept), indent=2) if as_json else kept.explain()) + "\n")
        return
    options = MeshOptions(model, predicted=True, **open_arguments(line))
    with interruptible(), load_progress(as_json=as_json) as progress:
        if inventory is None:
            plans = asyncio.run(plan_mesh(options, progress))
        else:
            plans = (asyncio.run(plan_inventory(options, inventory, progress)),)
    emit((json.dumps(_all_as_data(plans), indent=2) if as_json else _explained(plans)) + "\n")


def _without_network(line: LineOptions) -> LineOptions:
    """The options without the workers that are there, which an inventory is not about: a configuration file and
    variables name those, but nobody types them.

    Raises:
        UsageError: Somebody did.
    """
    if source_of("worker") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--inventory plans for machines that need not be there: leave out --worker")
    names = {name: value for name, value in _NO_NAMES.items() if source_of(name) is not ParameterSource.COMMANDLINE}
    return replace(line, worker=(), **names)


def _explained(plans: Sequence[Plan]) -> str:
    if len(plans) == 1:
        return plans[0].explain()
    return "\n".join(f"line {number} of {len(plans)}:\n{plan.explain()}" for number, plan in enumerate(plans, 1))


def _all_as_data(plans: Sequence[Plan]) -> dict[str, object]:
    """The first line's plan, and under "replicas" those of the others."""
    first, *others = map(_as_data, plans)
    return {**first, "replicas": others}


def _as_data(plan: Plan) -> dict[str, object]:
    demand = plan.demand
    return {
        "model": demand.model,
        "n_layer": demand.n_layer,
        "n_ctx": demand.n_ctx,
        "n_sequences": demand.n_sequences,
        "stages": [
            {
                "worker": stage.worker,
                "address": stage.address,
                "device": stage.device,
                "layer_start": stage.layers.start,
                "layer_end": stage.layers.end,
                "weights_bytes": stage.memory.weights_bytes,
                "kv_bytes": stage.memory.kv_bytes,
                "compute_bytes": stage.memory.compute_bytes,
                "host_bytes": stage.memory.host_bytes,
                "n_cpu_moe": stage.n_cpu_moe,
                "speed_factor": stage.speed_factor,
                "free_bytes": stage.free_bytes,
            }
            for stage in plan.stages
        ],
        "basis": plan.basis,
        "headline": plan.headline,
        "prediction": None if plan.prediction is None else _speeds(plan.prediction),
        "alternatives": list(map(_alternative, plan.alternatives)),
        "notes": list(plan.sentences),
    }


def _alternative(alternative: Alternative) -> dict[str, object]:
    hosted = alternative.n_cpu_moe or (0,) * len(alternative.stages)
    return {
        "label": alternative.label,
        "weights_bytes": alternative.size_bytes,
        "stages": [
            {"worker": name, "layer_start": layers.start, "layer_end": layers.end, "n_cpu_moe": n_cpu_moe}
            for (name, layers), n_cpu_moe in zip(alternative.stages, hosted, strict=True)
        ],
        "prediction": _speeds(alternative.prediction),
    }


def _speeds(prediction: Prediction) -> dict[str, object]:
    return {
        "tokens_per_s": prediction.tokens_per_s,
        "parallel": prediction.parallel,
        "parallel_tokens_per_s": prediction.parallel_tokens_per_s,
        "ttft_s": prediction.ttft_s,
        "stage_s": list(prediction.stage_s),
        "hops_s": prediction.hops_s,
    }
