# SPDX-License-Identifier: MIT
"""The workers of one machine: who there is to start, what each is told, and what to do when one has ended. The pure
part of the supervisor (worker/supervisor.py).
"""

import itertools
import re
import signal
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from worker.errors import CardsError, PortError
from worker.listening import Endpoint

# How cards that are one worker's share a stage, as --split has it; worker/cards.py says what each means.
SPLITS = ("auto", "layer", "row", "tensor")

_LAST_PORT = 65535
# For calls, and the one after it for weights (worker/weights/port.py).
_PORTS_EACH = 2

# How a worker ends that is to start again as a member of another cluster, or of none.
CLUSTER_CHANGED = 4
# How a worker ends that cannot start: what the user can mend, wrong usage, and the rest (worker/errors.py).
_START_FAILURES = (1, 2, 3)

# A driver that fell over needs a moment; one that never comes back is asked once a minute.
_FIRST_DELAY_S = 1.0
_LAST_DELAY_S = 60.0
# Who lived that long has not died of its start.
_LONG_LIFE_S = 300.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line says about all workers together; `devices` has one entry per worker (none: not named).

    `split`: how cards joined by commas share a stage. `ram_bytes`: for all workers together, beside their devices;
    None: not given.
    """

    devices: tuple[str, ...]
    endpoint: Endpoint
    name: str | None = None
    split: str = "auto"
    ram_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerOrder:
    """One worker to run: its device, what to call it in a sentence, and its command line."""

    device: str
    label: str
    arguments: tuple[str, ...]


def orders(wishes: Wishes, arguments: Sequence[str], options_with_value: Collection[str]) -> list[WorkerOrder]:
    """The workers to run.

    Args:
        arguments: the supervisor's own command line; what is not replaced by `wishes` goes to each worker as it is.
        options_with_value: of the command line, those that are followed by one.

    Raises:
        PortError: there are not as many ports.
        CardsError: cards are to share stages, and none are one worker's; or one of those is another worker's, too.
    """
    _check_cards(wishes)
    n_workers = len(wishes.devices)
    _check_ports(wishes.endpoint, n_workers)
    replaced = {"--device", "--integrated", "--name", "--listen", "--join"} | (
        {"--ram"} if wishes.ram_bytes is not None else set()
    )
    kept = without(arguments, replaced, options_with_value)
    names = _names(wishes.name, wishes.devices)
    made = []
    for number, (device, name) in enumerate(zip(wishes.devices, names, strict=True)):
        port = wishes.endpoint.port and wishes.endpoint.port + number * _PORTS_EACH
        own = ["--device", device, "--listen", wishes.endpoint.address(port)]
        if name is not None:
            own += ["--name", name]
        if wishes.ram_bytes is not None:
            own += ["--ram", str(wishes.ram_bytes // n_workers)]
        label = f"the worker on {device}" if name is None else name
        made.append(WorkerOrder(device, label, (*kept, *own)))
    return made


def cannot_start(exit_code: int) -> bool:
    """Whether a worker that ended so has said why it cannot start, and would again."""
    return exit_code in _START_FAILURES


def delay_s(delay_before_s: float, lived_s: float) -> float:
    """How long to wait before a worker that died after `lived_s` starts again.

    Args:
        delay_before_s: how long it had waited for the start that it died of; 0: not at all.
    """
    if lived_s >= _LONG_LIFE_S:
        return _FIRST_DELAY_S
    return min(_LAST_DELAY_S, max(_FIRST_DELAY_S, 2 * delay_before_s))


def how_it_ended(exit_code: int) -> str:
    """For a sentence; a number below 0 is that of a signal, as `subprocess` has it."""
    if exit_code == CLUSTER_CHANGED:
        return "left, because this machine's cluster has changed"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"


def _check_cards(wishes: Wishes) -> None:
    """Raises CardsError for a split of nothing, and for a card of which two workers would each count all memory."""
    joined = [device for device in wishes.devices if "," in device]
    if wishes.split != "auto" and not joined:
        raise CardsError(
            f"--split {wishes.split} says how cards share a worker's layers, and each worker here has one device"
            f" ({', '.join(wishes.devices)}); join cards by commas, like --device CUDA0,CUDA1"
        )
    cards = [{name.strip().lower() for name in device.split(",")} for device in wishes.devices]
    n_workers = Counter(itertools.chain.from_iterable(cards))
    for device in joined:
        shared = [name.strip() for name in device.split(",") if n_workers[name.strip().lower()] > 1]
        if shared:
            raise CardsError(
                f"--device {device} has {shared[0]}, which is another worker's too; give each card to one worker"
            )


def _check_ports(first: Endpoint, n_workers: int) -> None:
    """Raises PortError if consecutive ones run out."""
    n_ports = n_workers * _PORTS_EACH
    if first.port and first.port + n_ports - 1 > _LAST_PORT:
        raise PortError(
            f"{n_workers} worker{'s' * (n_workers > 1)} would listen on {n_ports} ports from {first.port} on, and"
            f" {_LAST_PORT} is the last there is: choose a lower one with --listen, or port 0 for any free ones"
        )


def _names(name: str | None, devices: Sequence[str]) -> list[str | None]:
    """The name of each worker: that given, with the device's where there are several; None: each chooses its own."""
    if name is None or len(devices) == 1:
        return [name] * len(devices)
    names: list[str | None] = []
    for device in devices:
        wanted = f"{name}-{re.sub(r'[^0-9A-Za-z_-]+', '-', device)}"
        taken = sum(1 for other in devices[: len(names)] if other == device)
        names.append(f"{wanted}-{taken + 1}" if taken else wanted)
    return names


def without(arguments: Sequence[str], dropped: Collection[str], options_with_value: Collection[str]) -> list[str]:
    """The command line without some of its options and their values."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        option, equals, _ = argument.partition("=")
        words = [argument]
        if option in options_with_value and not equals:
            words += [value for value in [next(rest, None)] if value is not None]
        if option not in dropped:
            kept += words
    return kept
