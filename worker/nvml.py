# SPDX-License-Identifier: MIT
"""What NVIDIA's driver tells of a card, through NVML. The one module that knows pynvml.

Called under the lock of worker/telemetry.py. A process that asks NVML takes no memory of the card.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from worker.figures import DriverError, Figure, Gauges

_MILLI = 1000
_PERCENT = 100
_TEMPERATURE_GPU = 0  # NVML_TEMPERATURE_GPU, the core's sensor

# Each figure with NVML's function for it, what that takes beside the card, and its result in our unit. The second one
# for the temperature is for drivers before 560.
FIGURES: tuple[tuple[Figure, str, tuple[int, ...], Callable[[Any], float]], ...] = (
    (Figure.USED_BYTES, "nvmlDeviceGetMemoryInfo", (), lambda memory: int(memory.used)),
    (Figure.UTILISATION, "nvmlDeviceGetUtilizationRates", (), lambda rates: rates.gpu / _PERCENT),
    (Figure.TEMPERATURE_C, "nvmlDeviceGetTemperatureV", (_TEMPERATURE_GPU,), float),
    (Figure.TEMPERATURE_C, "nvmlDeviceGetTemperature", (_TEMPERATURE_GPU,), float),
    (Figure.POWER_W, "nvmlDeviceGetPowerUsage", (), lambda milliwatts: milliwatts / _MILLI),
    (Figure.POWER_LIMIT_W, "nvmlDeviceGetEnforcedPowerLimit", (), lambda milliwatts: milliwatts / _MILLI),
)


def gauges(bus_id: str) -> Gauges:
    """How to ask for each figure of the card there.

    Raises:
        DriverError: there is no NVML on this machine, or the card is none of NVIDIA's.
    """
    nvml = _library()
    card = _ask(nvml, "nvmlDeviceGetHandleByPciBusId", bus_id.encode())
    return [
        (figure, functools.partial(_told, nvml, function, translate, card, *arguments))
        for figure, function, arguments, translate in FIGURES
    ]


@functools.cache
def _library() -> ModuleType:
    """NVML, ready to be asked; it stays so until the process ends. Imported here: it takes memory of its own."""
    import pynvml

    library: ModuleType = pynvml
    _ask(library, "nvmlInit")
    return library


def _told(nvml: ModuleType, function: str, translate: Callable[[Any], float], *arguments: object) -> float:
    return translate(_ask(nvml, function, *arguments))


def _ask(nvml: ModuleType, function: str, *arguments: object) -> object:
    try:
        return getattr(nvml, function)(*arguments)
    except nvml.NVMLError as error:
        raise DriverError(f"NVML: {error}") from error
