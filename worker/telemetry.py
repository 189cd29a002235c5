# SPDX-License-Identifier: MIT
"""What the drivers of a worker's cards tell while they work: memory, utilisation, temperature, power. All of it is
optional. Of a card that no driver tells of there is still what llama.cpp's backend says of its memory.

Called on gRPC's threads, as often as somebody asks.
"""

import logging
import re
import threading
from collections.abc import Callable, Sequence

from native import DeviceKind, bus_id, find_device
from worker import kernel, nvml
from worker.figures import CardFigures, DriverError, Figure, Gauge, Gauges

_LOG = logging.getLogger(__name__)

# "0000:c1:00.0"; the CUDA backend appends "-v1" where it shows one card as several.
_BUS_ID = re.compile(r"([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])(?:-v\d+)?")


class Telemetry:
    """The figures of some cards, by llama.cpp's names of them."""

    def __init__(self, devices: Sequence[str]) -> None:
        """Nobody is asked yet."""
        self._cards = [Card(device, gauges_of) for device in devices]
        self._lock = threading.Lock()
        self._last: tuple[CardFigures, ...] = ()

    def read(self) -> tuple[CardFigures, ...]:
        """What the drivers say now; while one of them takes its time for another caller, what they said last."""
        if not self._lock.acquire(blocking=not self._last):
            return self._last
        try:
            self._last = tuple(card.read() for card in self._cards)
            return self._last
        finally:
            self._lock.release()


class Card:
    """One device and whom to ask about it. Who fails once is not asked again."""

    def __init__(self, device: str, find_gauges: Callable[[str], Gauges]) -> None:
        """`find_gauges` is called with the device when somebody first wants to know."""
        self._device = device
        self._find_gauges = find_gauges
        self._gauges: dict[Figure, list[Gauge]] | None = None

    def read(self) -> CardFigures:
        """What can be told now."""
        if self._gauges is None:
            self._gauges = {}
            for figure, gauge in self._find_gauges(self._device):
                self._gauges.setdefault(figure, []).append(gauge)
        told = {figure: self._ask(figure, gauges) for figure, gauges in self._gauges.items()}
        used_bytes = told.get(Figure.USED_BYTES)
        return CardFigures(
            device=self._device,
            used_bytes=None if used_bytes is None else int(used_bytes),
            utilisation=told.get(Figure.UTILISATION),
            temperature_c=told.get(Figure.TEMPERATURE_C),
            power_w=told.get(Figure.POWER_W),
            power_limit_w=told.get(Figure.POWER_LIMIT_W),
        )

    def _ask(self, figure: Figure, gauges: list[Gauge]) -> float | None:
        if not gauges:
            return None
        try:
            return gauges[0]()
        except DriverError as error:
            _LOG.info("%s: %s is not asked for here any more: %s", self._device, figure.value, error)
            del gauges[0]
        return self._ask(figure, gauges)


def card_at(found: str | None) -> str | None:
    """The PCI address in a bus id as llama.cpp gives it, as drivers know it; None: there is none in it."""
    match = _BUS_ID.fullmatch(found or "")
    return None if match is None else match[1]


def gauges_of(device: str) -> Gauges:
    """Everyone who may tell of it: its driver first, then llama.cpp."""
    of_backend: tuple[Figure, Gauge] = (Figure.USED_BYTES, lambda: _used_bytes(device))
    card = card_at(bus_id(device))
    if card is not None:
        return [*_told_by(lambda: nvml.gauges(card)), *_told_by(lambda: kernel.card_gauges(card)), of_backend]
    if find_device(device).kind is DeviceKind.CPU:
        return [*_told_by(kernel.processor_gauges), of_backend]
    return [of_backend]


def _told_by(source: Callable[[], Gauges]) -> Gauges:
    """What a driver can be asked for; nothing if it is not there."""
    try:
        return source()
    except DriverError as error:
        _LOG.info("a driver is not asked: %s", error)
        return []


def _used_bytes(device: str) -> int:
    """As llama.cpp's backend has it."""
    now = find_device(device)
    return now.total_bytes - now.free_bytes
