# SPDX-License-Identifier: MIT
"""`caravan plan MODEL`: who would hold what, and why; nothing is loaded."""

from __future__ import annotations

import asyncio
import json

import click

from coordinator.cli.console import emit
from coordinator.cli.interrupts import interruptible
from coordinator.cli.options import LineOptions, line_options, option
from coordinator.cli.progress import LoadProgress
from coordinator.cli.settings import debug_option
from coordinator.opening import MeshOptions, plan_mesh
from coordinator.plan import Plan
from native import FlashAttention


@click.command("plan")
@click.argument("model")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@line_options
@debug_option
def command(model: str, as_json: bool, line: LineOptions) -> None:
    """Show which worker would hold which layers of MODEL; nothing is loaded, and no worker is started.

    \b
    caravan plan model.gguf --context 8192
    """
    options = MeshOptions(
        model=model,
        workers=line.worker,
        discover=line.discovery_timeout > 0,
        discovery_timeout_s=line.discovery_timeout,
        local_workers=0,
        layer_ranges=line.layers,
        context=line.context,
        parallel=line.parallel,
        batch=line.batch,
        ubatch=None,
        kv_type_k="f16",
        kv_type_v="f16",
        flash_attention=FlashAttention[line.flash_attention.upper()],
        queue=0,
    )
    with interruptible():
        plan = asyncio.run(plan_mesh(options, LoadProgress()))
    emit((json.dumps(_as_data(plan), indent=2) if as_json else plan.explain()) + "\n")


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
                "free_bytes": stage.free_bytes,
            }
            for stage in plan.stages
        ],
        "notes": list(plan.notes),
    }
