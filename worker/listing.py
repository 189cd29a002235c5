# SPDX-License-Identifier: MIT
"""This machine's devices, and which of them a worker is started for where none is named: `python -m worker.listing`.

A process of its own that prints JSON and ends, because asking a GPU's driver takes some of the card's memory for as
long as the asking process lives. The supervisor starts it, and the coordinator's `caravan doctor`.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from native import Device, DeviceKind, backends, bus_id, devices
from worker.telemetry import Telemetry


def chosen(found: Sequence[tuple[Device, str | None]], *, integrated: bool) -> list[str]:
    """The names of the devices that get a worker each: every GPU, else the CPU.

    Args:
        found: what llama.cpp has, each with its bus id. Where two backends can use a card, the first one gets it.
        integrated: whether those count that share the system's memory.
    """
    kinds = (DeviceKind.GPU, DeviceKind.INTEGRATED_GPU) if integrated else (DeviceKind.GPU,)
    cards: set[str] = set()
    names = []
    for device, card in found:
        if device.kind in kinds and card not in cards:
            names.append(device.name)
            cards |= {card} if card is not None else set()
    return names or [device.name for device, _ in found if device.kind is DeviceKind.CPU]


def main() -> None:
    """Prints it."""
    found = [(device, bus_id(device.name)) for device in devices()]
    names = chosen(found, integrated="--integrated" in sys.argv[1:])
    listed = [_as_data(device, card, names) for device, card in found]
    print(json.dumps({"devices": listed, "backends": backends()}))


def _as_data(device: Device, card: str | None, names: Sequence[str]) -> dict[str, object]:
    (told,) = Telemetry([device.name]).read()
    return {
        "name": device.name,
        "description": device.description,
        "backend": device.backend,
        "kind": device.kind.name.lower(),
        "bus_id": card,
        "free_bytes": device.free_bytes,
        "total_bytes": device.total_bytes,
        "is_chosen": device.name in names,
        "telemetry": {name: figure for name, figure in asdict(told).items() if name != "device" and figure is not None},
    }


if __name__ == "__main__":
    main()
