# SPDX-License-Identifier: MIT
"""Opening a mesh for a command, and telling what its line is.

Called by `run` and `demo` on the main thread, and its parts by `serve`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from coordinator.cli.console import emit, say
from coordinator.cli.options import LineOptions
from coordinator.cli.progress import layers_text, load_progress
from coordinator.corrections import MIN_TOKENS
from coordinator.events import LineEvent, OnLineEvent
from coordinator.generation import Generation, Usage
from coordinator.last_plan import keep_plan
from coordinator.mesh import Mesh
from coordinator.plan import Plan, in_ram
from coordinator.search import Objective
from coordinator.wishes import Distribution
from native import FlashAttention, Pooling
from protos.sizes import size


def open_arguments(line: LineOptions) -> dict[str, Any]:
    """The options as `Mesh.open` and `AsyncMesh.open` name them."""
    return {
        "workers": line.worker,
        "insecure_workers": line.insecure_workers,
        "discover": line.discovery_timeout > 0,
        "discovery_timeout_s": line.discovery_timeout,
        "only": line.only,
        "exclude": line.exclude,
        "distribution": Distribution(line.distribution),
        "objective": Objective[line.objective.upper()],
        "max_stages": line.max_stages,
        "replicas": None if line.replicas == "auto" else int(line.replicas),
        "layer_ranges": line.layers.in_order,
        "pinned": line.layers.by_name,
        "context": line.context,
        "parallel": line.parallel,
        "batch": line.batch,
        "ubatch": line.ubatch,
        "context_shift": line.context_shift,
        "draft": line.draft,
        "draft_on": line.draft_on,
        "draft_device": line.draft_device,
        "draft_threads": line.draft_threads,
        "embeddings": line.embeddings,
        "pooling": None if line.pooling is None else Pooling[line.pooling.upper()],
        "main": line.main,
        "gpu_layers": line.gpu_layers,
        "kv_type_k": line.kv_type,
        "kv_type_v": line.kv_type,
        "max_bandwidth": line.max_bandwidth,
        "worker_timeout": line.worker_timeout,
        "recovery_timeout": line.recovery_timeout,
        "rejoin": line.rejoin == "auto",
        "flash_attention": FlashAttention[line.flash_attention.upper()],
    }


@contextlib.contextmanager
def opened(
    model: str,
    *,
    starting: str | None = None,
    json_progress: bool = False,
    on_event: OnLineEvent | None = None,
    **arguments: Any,  # noqa: ANN401 -- those of Mesh.open
) -> Iterator[Mesh]:
    """A mesh, its loading and its line told on stderr; closed at the end, with all it started.

    Args:
        on_event: Takes what becomes of the line, instead of stderr.
    """
    with load_progress(starting, as_json=json_progress) as progress:
        mesh = Mesh.open(model, on_progress=progress, on_event=on_event or tell_event, **arguments)
    with mesh:
        tell_lines(mesh.plans)
        yield mesh


def tell_lines(plans: Sequence[Plan]) -> None:
    """Each line's plan on stderr."""
    for number, plan in enumerate(plans, 1):
        if len(plans) > 1:
            say(f"line {number} of {len(plans)}", style="dim")
        _tell_line(plan)


def _tell_line(plan: Plan) -> None:
    """A line on stderr for each stage: worker, address, layers, bytes; around them what else the plan says."""
    tell = functools.partial(say, style="dim")
    if plan.headline:
        tell(plan.headline)
    width = max(len(stage.worker) for stage in plan.stages)
    for stage in plan.stages:
        layers = f"{layers_text(stage.layers.start, stage.layers.end)} of {plan.demand.n_layer}"
        hosted = f", {in_ram(stage.n_cpu_moe)}" if stage.n_cpu_moe else ""
        taken = f"{size(stage.memory.total_bytes)} on {stage.device}{hosted}"
        tell(f"{stage.worker:<{width}}  {stage.address}  {layers}, {taken}")
    if plan.prediction is not None and plan.demand.writes:
        tell(f"predicted: {plan.prediction.tokens_per_s:.1f} tokens per second for one stream")
    for note in plan.sentences:
        tell(note)


def tell_event(event: LineEvent) -> None:
    """What became of a line, on stderr."""
    say(f"caravan: {event.message}")


def print_text(generation: Generation) -> None:
    """The text on stdout as it comes, and a newline at its end, however it ends."""
    try:
        for token in generation:
            emit(token.text)
    finally:
        emit("\n")


def note_speed(mesh: Mesh, generation: Generation) -> None:
    """Keeps the plan with how fast it turned out, for `caravan plan --last` and for the next plan."""
    is_whole = not (mesh.recovered or mesh.joined)  # a pause is no speed, and another plan is another
    if generation.usage.completion_tokens >= MIN_TOKENS and is_whole:
        keep_plan(mesh.plan, generation.usage.decode_tokens_per_s, mesh.measured)


def tell_speed(generation: Generation) -> None:
    """A line on stderr: how much was read and written, and how fast."""
    say(speed_text(generation.usage), style="dim")


def speed_text(usage: Usage) -> str:
    """How much was read and written, and how fast."""
    ttft_ms = (usage.queued_s + usage.prefill_s) * 1000
    return (
        f"{usage.completion_tokens} tokens, {usage.decode_tokens_per_s:.1f} tokens per second; "
        f"{usage.prompt_tokens} prompt tokens, TTFT {ttft_ms:.0f} ms"
    )
