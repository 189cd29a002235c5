# SPDX-License-Identifier: MIT
"""`caravan nodes`: the workers on the network, what they have, what they hold, and who cannot take part."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import NoReturn

import click

from coordinator.cli.console import emit, say
from coordinator.cli.interrupts import interruptible
from coordinator.cli.nodes_watch import holds, watch
from coordinator.cli.options import discovery_timeout_option, insecure_workers_option, option, worker_option
from coordinator.cli.settings import debug_option
from coordinator.discovery import Discovery, discover
from coordinator.last_words import sentence
from coordinator.membership import own_channels, strangers_text
from coordinator.plan import columns
from coordinator.telemetry import busy, power, temperature, used
from coordinator.workers import CardFigures, FoundWorker
from protos.channels import Channels
from protos.last_words import WorkerEnd
from protos.sizes import size

_BEFORE = ("WORKER", "ADDRESS", "HOST", "DEVICE", "FREE", "TOTAL")
_FIGURES: dict[str, Callable[[CardFigures], str]] = {"USED": used, "BUSY": busy, "TEMP": temperature, "POWER": power}
"""Columns of what drivers tell: those that some worker's driver does tell."""
_BEHIND = ("LLAMA.CPP", "HOLDS")

_EVERY_S = 1.0
"""Between looks, at least: to look for workers on the network takes longer than that."""


@click.command("nodes")
@worker_option
@insecure_workers_option
@discovery_timeout_option
@option(
    "--watch",
    "watched",
    is_flag=True,
    help="Look again and again, live on a terminal until Ctrl-C; with --json a line for each look.",
)
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def command(
    worker: tuple[str, ...], insecure_workers: bool, discovery_timeout: float, watched: bool, as_json: bool
) -> None:
    """List the workers on the network.

    \b
    caravan nodes --json
    caravan nodes --watch
    """  # fmt: skip
    channels = own_channels(insecure=insecure_workers)

    def look() -> Discovery:
        return asyncio.run(
            discover(
                worker,
                channels=channels,
                insecure=insecure_workers,
                mdns=discovery_timeout > 0,
                timeout_s=discovery_timeout,
            )
        )

    with interruptible():
        if as_json and watched:
            _print_looks(look)
        elif as_json:
            emit(json.dumps(_as_data(look()), indent=2) + "\n")
        elif watched and sys.stdout.isatty():
            watch(look, lambda seen: "\n".join(_told(seen, channels)), _EVERY_S)
        else:
            seen = look()
            if seen.found:
                emit(_table(seen.found))
            for text in _sentences(seen, channels):
                say(text)


def _print_looks(look: Callable[[], Discovery]) -> NoReturn:
    """A line of JSON for each."""
    while True:
        started_s = time.monotonic()
        emit(json.dumps(_as_data(look())) + "\n")
        time.sleep(max(0.0, started_s + _EVERY_S - time.monotonic()))


def _told(seen: Discovery, channels: Channels) -> Iterator[str]:
    """All that there is to say, in rows."""
    if seen.found:
        yield from _table(seen.found).splitlines()
    yield from _sentences(seen, channels)


def _sentences(seen: Discovery, channels: Channels) -> Iterator[str]:
    """What there is to say beside the table."""
    if not seen.found:
        yield "no worker was found: start one with `caravan worker`, here or on another computer"
    for found in seen.found:
        yield from (sentence(found.name, end) for end in found.ends)
    if seen.n_strangers:
        yield strangers_text(seen.n_strangers, channels)
    for left_out in seen.left_out:
        yield f"left out: {left_out.name} at {left_out.address}: {left_out.reason}"


def _table(workers: Sequence[FoundWorker]) -> str:
    """Columns as wide as they need to be: cut off, a report is none."""
    told = [name for name, text in _FIGURES.items() if any(_figure(text, worker) for worker in workers)]
    rows = [(*_BEFORE, *told, *_BEHIND), *(_row(worker, told) for worker in workers)]
    return "".join(f"{line}\n" for line in columns(rows))


def _row(worker: FoundWorker, told: Sequence[str]) -> tuple[str, ...]:
    device = worker.device
    return (
        worker.name,
        worker.address,
        worker.host_name,
        f"{device.name} ({device.description})",
        size(device.free_bytes),
        size(device.total_bytes),
        *(_figure(_FIGURES[name], worker) or "-" for name in told),
        worker.versions.llama_cpp,
        holds(worker) or "-",
    )


def _figure(text: Callable[[CardFigures], str], worker: FoundWorker) -> str:
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
