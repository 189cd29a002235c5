# SPDX-License-Identifier: MIT
"""The devices that llama.cpp has on this machine, and which of them a plain `caravan worker` uses. The worker's own
program tells, as a process that ends: so neither a GPU's memory nor a crash of its driver stays with us.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.diagnosis.finding import Finding, Verdict
from coordinator.telemetry import figures_text
from coordinator.workers import CardFigures
from protos.sizes import size


class ListingError(Exception):
    """Nobody tells which devices there are; a sentence why."""


@dataclass(frozen=True, slots=True)
class ListedDevice:
    """A device as `worker/listing.py` tells of it.

    Attributes:
        kind: "cpu", "gpu", "integrated_gpu" or "accelerator".
        bus_id: Where the card is in this machine; None: not known, or no card.
        is_chosen: Whether it gets a worker where none is named.
    """

    name: str
    description: str
    backend: str
    kind: str
    bus_id: str | None
    free_bytes: int
    total_bytes: int
    is_chosen: bool
    figures: CardFigures

    @property
    def is_graphics(self) -> bool:
        """Whether it is a GPU of some kind."""
        return self.kind in ("gpu", "integrated_gpu")


@dataclass(frozen=True, slots=True)
class Listing:
    """All devices, and the backends that the installed llama.cpp was built with."""

    devices: tuple[ListedDevice, ...]
    backends: tuple[str, ...]


async def listed_devices() -> Listing:
    """What there is, now.

    Raises:
        ListingError: The process did not tell.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker.listing"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaints = await process.communicate()
    try:
        return parse_listing(output)
    except (ValueError, KeyError, TypeError):
        said = complaints.decode(errors="replace").strip().rpartition("\n")[2] or "it said nothing"
        raise ListingError(
            f"the process that asks llama.cpp for this machine's devices ended with {process.returncode}: {said}"
        ) from None


def parse_listing(output: bytes | str) -> Listing:
    """Raises ValueError, KeyError or TypeError for what is none."""
    listing = json.loads(output)
    return Listing(tuple(map(_device, listing["devices"])), tuple(listing["backends"]))


def device_findings(found: Sequence[ListedDevice]) -> list[Finding]:
    """Each device with its memory, what its driver tells, and how a worker comes to use it."""
    return [Finding(device.name, Verdict.GOOD, _text(device)) for device in found]


def _device(said: dict[str, object]) -> ListedDevice:
    figures = CardFigures(device=str(said["name"]), **said.pop("telemetry"))  # type: ignore[arg-type]
    return ListedDevice(**said, figures=figures)  # type: ignore[arg-type]


def _text(device: ListedDevice) -> str:
    told = figures_text(device.figures)
    return "; ".join(
        [
            f"{device.description}, {size(device.free_bytes)} free of {size(device.total_bytes)}",
            *([", ".join(told)] if told else []),
            f"`{_command(device)}` uses it",
        ]
    )


def _command(device: ListedDevice) -> str:
    if device.is_chosen:
        return "caravan worker"
    return f"caravan worker {'--integrated' if device.kind == 'integrated_gpu' else f'--device {device.name}'}"
