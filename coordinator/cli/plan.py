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
from coordinator.cli.options import LayersOption, LineOptions, line_options, model_argument, option
from coordinator.cli.progress import load_progress
from coordinator.cli.settings import debug_option, source_of
from coordinator.inventory import plan_inventory
from coordinator.last_plan import last_plan
from coordinator.opening import plan_mesh
from coordinator.options import MeshOptions
from coordinator.plan import Plan
from coordinator.plan_data import plan_as_data

_NO_NAMES: dict[str, Any] = {"only": (), "exclude": (), "layers": LayersOption()}
"""The options that go by workers' names, when they name none."""


@click.command("plan")
@model_argument(required=False)
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
    first, *others = map(plan_as_data, plans)
    return {**first, "replicas": others}
