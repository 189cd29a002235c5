# SPDX-License-Identifier: MIT
"""Which cards reach each other's memory without a detour, by what NVIDIA's driver tells through NVML. Asked once, when
a worker with several cards starts.
"""

import itertools
import logging
import re
from collections.abc import Callable, Sequence
from types import ModuleType

_LOG = logging.getLogger(__name__)

# "0000:c1:00.0"; the CUDA backend appends "-v1" where it shows one card as several.
_BUS_ID = re.compile(r"([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])(?:-v\d+)?")

# What a pair of cards can do. Source: enum nvmlGpuP2PCapsIndex_t in nvml.h; 0 is nvmlGpuP2PStatus_t's "OK".
_READ, _WRITE, _NVLINK = 0, 1, 2
_OK = 0


def are_peers(bus_ids: Sequence[str | None], can: Callable[[str, str, int], bool]) -> bool:
    """Whether each of the cards reaches each other's memory, over NVLink or across the bus.

    Args:
        bus_ids: as `native.bus_id` gives them; of one that has none nothing is known.
        can: whether a pair of cards at two PCI addresses has one of NVML's capabilities.
    """
    addresses = [match[1] for bus_id in bus_ids if (match := _BUS_ID.fullmatch(bus_id or ""))]
    if len(addresses) < len(bus_ids) or len(set(addresses)) < len(addresses):
        return False
    return all(
        can(one, other, _NVLINK) or (can(one, other, _READ) and can(one, other, _WRITE))
        for one, other in itertools.permutations(addresses, 2)
    )


def asked_of_nvml(one: str, other: str, capability: int) -> bool:
    """What NVML says of that pair; False where there is none, or it does not know them."""
    try:
        import pynvml
    except ImportError:
        return False
    try:
        return _ask(pynvml, one, other, capability)
    except pynvml.NVMLError as error:
        _LOG.info("NVML does not tell how cards are linked: %s", error)
        return False


def _ask(nvml: ModuleType, one: str, other: str, capability: int) -> bool:
    nvml.nvmlInit()
    try:
        cards = [nvml.nvmlDeviceGetHandleByPciBusId(address.encode()) for address in (one, other)]
        return bool(nvml.nvmlDeviceGetP2PStatus(*cards, capability) == _OK)
    finally:
        nvml.nvmlShutdown()
