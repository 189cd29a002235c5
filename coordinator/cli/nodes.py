# SPDX-License-Identifier: MIT
"""`caravan nodes`: the workers on the network, what they have, what they hold, and who cannot take part."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

import click

from coordinator.cli.console import emit, say
from coordinator.cli.interrupts import interruptible
from coordinator.cli.options import discovery_timeout_option, insecure_workers_option, option, worker_option
from coordinator.cli.progress import layers_text
from coordinator.cli.settings import debug_option
from coordinator.discovery import Discovery, discover
from coordinator.last_words import sentence
from coordinator.membership import own_channels, strangers_text
from coordinator.plan import columns, size
from coordinator.telemetry import busy, power, temperature, used
from coordinator.workers import CardFigures, FoundWorker
from protos.last_words import WorkerEnd

_BEFORE = ("WORKER", "ADDRESS", "HOST", "DEVICE", "FREE", "TOTAL")
_FIGURES: dict[str, Callable[[CardFigures], str]] = {"USED": used, "BUSY": busy, "TEMP": temperature, "POWER": power}
"""Columns of what drivers tell: those that some worker's driver does tell."""
_BEHIND = ("LLAMA.CPP", "HOLDS")


@click.command("nodes")
@worker_option
@insecure_workers_option
@discovery_timeout_option
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def command(worker: tuple[str, ...], insecure_workers: bool, discovery_timeout: float, as_json: bool) -> None:
    """List the workers on the network.

    \b
    caravan nodes --json
    """  # fmt: skip
    channels = own_channels(insecure=insecure_workers)
    looking = discover(
        worker,
        channels=channels,
        insecure=insecure_workers,
        mdns=discovery_timeout > 0,
        timeout_s=discovery_timeout,
    )
    with interruptible():
        seen = asyncio.run(looking)
    if as_json:
        emit(json.dumps(_as_data(seen), indent=2) + "\n")
        return
    if seen.found:
        emit(_table(seen.found))
    else:
        say("no worker was found: start one with `caravan worker`, here or on another computer")
    for found in seen.found:
        for end in found.ends:
            say(sentence(found.name, end))
    if seen.n_strangers:
        say(strangers_text(seen.n_strangers, channels))
    for left_out in seen.left_out:
        say(f"left out: {left_out.name} at {left_out.address}: {left_out.reason}")


def _table(workers: Sequence[FoundWorker]) -> str:
    """Columns as wide as they need to be: cut off, a report is none."""
    told = [name for name, text in _FIGURES.items() if any(_told(text, worker) for worker in workers)]
    rows = [(*_BEFORE, *told, *_BEHIND), *(_row(worker, told) for worker in workers)]
    return "".join(f"{line}\n" for line in columns(rows))


def _row(worker: FoundWorker, told: Sequence[str]) -> tuple[str, ...]:
    device = worker.device
    holds = ", ".join(
        layers_text(stage.layers.start, stage.layers.end) + (" (warm)" if stage.is_warm else "")
        for stage in worker.loaded
    )
    return (
        worker.name,
        worker.address,
        worker.host_name,
        f"{device.name} ({device.description})",
        size(device.free_bytes),
        size(device.total_bytes),
        *(_told(_FIGURES[name], worker) or "-" for name in told),
        worker.versions.llama_cpp,
        holds or "-",
    )


def _told(text: Callable[[CardFigures], str], worker: FoundWorker) -> str:
    """A figure of each of the worker's cards; empty if none is known."""
    texts = [text(card) for card in worker.telemetry]
    return ", ".join(text or "-" for text in texts) if any(texts) else ""


def _as_data(seen: Discovery) -> dict[str, object]:
    return {
        "workers": [_worker_as_data(worker) for worker in seen.found],
        "left_out": [
            {"name": left_out.name, "address": left_out.address, "reason": left_out.reason}
            for left_out in seen.left_out
        ],
    }


def _worker_as_data(worker: FoundWorker) -> dict[str, object]:
    device = worker.device
    return {
        "name": worker.name,
        "address": worker.address,
        "host_name": worker.host_name,
        "device": {
            "name": device.name,
            "description": device.description,
            "backend": device.backend,
            "kind": device.kind,
            "free_bytes": device.free_bytes,
            "total_bytes": device.total_bytes,
        },
        "llama_cpp": worker.versions.llama_cpp,
        "llama_cpp_python": worker.versions.llama_cpp_python,
        "contract_version": worker.contract_version,
        "loaded": [
            {
                "session_id": stage.session_id,
                "layer_start": stage.layers.start,
                "layer_end": stage.layers.end,
                "bytes": stage.memory.total_bytes,
                "is_warm": stage.is_warm,
            }
            for stage in worker.loaded
        ],
        "telemetry": [asdict(card) for card in worker.telemetry],
        "ends": [_end_as_data(end) for end in worker.ends],
    }


def _end_as_data(end: WorkerEnd) -> dict[str, object]:
    doing = None if end.doing is None else asdict(end.doing) | {"activity": end.doing.activity.name.lower()}
    return asdict(end) | {"doing": doing}
