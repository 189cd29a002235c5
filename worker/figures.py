# SPDX-License-Identifier: MIT
"""What can be told of a card while it works, and how a driver is asked for it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias


class Figure(str, Enum):
    """One kind of number, by the name of its field in CardFigures."""

    USED_BYTES = "used_bytes"
    UTILISATION = "utilisation"
    TEMPERATURE_C = "temperature_c"
    POWER_W = "power_w"
    POWER_LIMIT_W = "power_limit_w"


@dataclass(frozen=True, slots=True)
class CardFigures:
    """A card as its driver sees it, whoever uses it; None: not told.

    `device` is llama.cpp's name of it; `utilisation` of its compute units, 0 to 1; `power_limit_w` what it may draw.
    """

    device: str
    used_bytes: int | None = None
    utilisation: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None


class DriverError(Exception):
    """A driver does not tell a figure, and need not be asked for it again."""


# Asks a driver for one figure, in our unit; None: not yet. Raises DriverError.
Gauge: TypeAlias = Callable[[], float | None]
# Several of them; where two are for one figure, the better one is first.
Gauges: TypeAlias = list[tuple[Figure, Gauge]]
