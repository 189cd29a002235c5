# SPDX-License-Identifier: MIT
"""Which cards reach each other's memory without a detour, by what NVIDIA's driver tells. Asked once, when a worker with
several cards starts.
"""

import itertools
import logging
from collections.abc import Callable, Sequence

from worker import nvml
from worker.figures import DriverError
from worker.telemetry import card_at

_LOG = logging.getLogger(__name__)


def are_peers(bus_ids: Sequence[str | None], can: Callable[[str, str, nvml.Link], bool]) -> bool:
    """Whether each of the cards reaches each other's memory, over NVLink or across the bus.

    Args:
        bus_ids: as `native.bus_id` gives them; of one that has none nothing is known.
        can: whether a card at one PCI address reaches that at another so.
    """
    addresses = [address for address in map(card_at, bus_ids) if address is not None]
    if len(addresses) < len(bus_ids) or len(set(addresses)) < len(addresses):
        return False
    return all(
        can(one, other, nvml.Link.NVLINK) or (can(one, other, nvml.Link.READ) and can(one, other, nvml.Link.WRITE))
        for one, other in itertools.permutations(addresses, 2)
    )


def asked_of_nvml(one: str, other: str, link: nvml.Link) -> bool:
    """What NVML says of that pair; False where there is none, or it does not know them."""
    try:
        return nvml.has_link(one, other, link)
    except DriverError as error:
        _LOG.info("the driver does not tell how cards are linked: %s", error)
        return False
