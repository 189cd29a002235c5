# SPDX-License-Identifier: MIT
"""What data sheets say of cards, chips and memory: bytes, bandwidth, compute. A table, and names found forgivingly.

Source: the vendors' data sheets and architecture papers (NVIDIA, AMD, Intel, Apple); peak figures, none of them
measured here. Compute is f16 multiplications and additions per second, dense, of the units that do it: tensor or matrix
cores that add up in f32 where a card has them, else shaders (of Pascal, which is slow with f16, in f32; of Intel, whose
matrix cores llama.cpp hardly uses). Apple tells no such figure for M3 and M4; theirs are cores x 128 lanes x 2 x clock.
Where a thing is sold with memory of several sizes, its size is the reader's to say.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from enum import Enum


class Kind(str, Enum):
    """Whose memory it is; called as a worker calls its device's kind."""

    GPU = "gpu"
    INTEGRATED_GPU = "integrated_gpu"
    """A GPU in its machine's memory: Apple's, and AMD's larger APUs."""
    CPU = "cpu"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Card:
    """Something that layers can lie on.

    Attributes:
        memory_bytes: None where it is sold with several sizes.
        bytes_per_s: Memory bandwidth, at most.
        flops: f16 operations per second, at most; None where no figure of that meaning is known.
    """

    name: str
    kind: Kind
    memory_bytes: int | None
    bytes_per_s: float
    flops: float | None


# Name, memory in GiB, GB/s, TFLOPS.
_NVIDIA = """
    GTX 1070              8    256    6.5
    GTX 1080              8    320    8.9
    GTX 1080 Ti          11    484   11.3
    Tesla P40            24    347   11.8
    Tesla P100           16    732   18.7
    Tesla V100 16GB      16    900    112
    Tesla V100 32GB      32    900    112
    Tesla T4             16    320     65
    RTX 2060              6    336   25.8
    RTX 2070              8    448   29.9
    RTX 2080              8    448   40.3
    RTX 2080 Ti          11    616   53.8
    RTX 3060             12    360   25.5
    RTX 3060 Ti           8    448   32.4
    RTX 3070              8    448   40.6
    RTX 3070 Ti           8    608   43.5
    RTX 3080             10    760   59.5
    RTX 3080 12GB        12    912   61.3
    RTX 3080 Ti          12    912   68.2
    RTX 3090             24    936     71
    RTX 3090 Ti          24   1008     80
    RTX 4060              8    272   30.2
    RTX 4060 Ti 8GB       8    288   44.1
    RTX 4060 Ti 16GB     16    288   44.1
    RTX 4070             12    504   58.3
    RTX 4070 Super       12    504   71.0
    RTX 4070 Ti          12    504   80.2
    RTX 4070 Ti Super    16    672   88.2
    RTX 4080             16    717   97.5
    RTX 4080 Super       16    736  104.4
    RTX 4090             24   1008  165.2
    RTX 5060              8    448   38.4
    RTX 5060 Ti 8GB       8    448   47.4
    RTX 5060 Ti 16GB     16    448   47.4
    RTX 5070             12    672   61.7
    RTX 5070 Ti          16    896   87.9
    RTX 5080             16    960  112.6
    RTX 5090             32   1792  209.5
    RTX A4000            16    448   76.7
    RTX A5000            24    768  111.1
    RTX A6000            48    768  154.8
    RTX 6000 Ada         48    960  364.2
    RTX PRO 6000         96   1792      -
    A10                  24    600    125
    A40                  48    696  149.7
    A100 40GB            40   1555    312
    A100 80GB            80   1935    312
    L4                   24    300    121
    L40S                 48    864    362
    H100 PCIe            80   2000    756
    H100 SXM             80   3350    989
    H200                141   4800    989
"""
_AMD_AND_INTEL = """
    Radeon VII           16   1024   26.9
    Instinct MI50 16GB   16   1024   26.5
    Instinct MI50 32GB   32   1024   26.5
    Instinct MI60        32   1024   29.5
    Instinct MI100       32   1229  184.6
    RX 6700 XT           12    384   26.4
    RX 6800              16    512   32.3
    RX 6800 XT           16    512   41.5
    RX 6900 XT           16    512   46.1
    RX 7600 XT           16    288   45.1
    RX 7700 XT           12    432   70.3
    RX 7800 XT           16    624   74.7
    RX 7900 GRE          16    576   91.9
    RX 7900 XT           20    800    103
    RX 7900 XTX          24    960    123
    RX 9060 XT 16GB      16    320    103
    RX 9070              16    640    145
    RX 9070 XT           16    640    195
    Arc A750              8    512   34.4
    Arc A770             16    560   39.3
    Arc B580             12    456   27.3
"""
_INTEGRATED = """
    M1                    -     68    2.6
    M1 Pro                -    200    5.2
    M1 Max                -    400   10.4
    M1 Ultra              -    800   20.8
    M2                    -    100    3.6
    M2 Pro                -    200    6.8
    M2 Max                -    400   13.6
    M2 Ultra              -    800   27.2
    M3                    -    100    3.5
    M3 Pro                -    150    6.4
    M3 Max                -    400   14.1
    M3 Ultra              -    819   28.2
    M4                    -    120    4.3
    M4 Pro                -    273    8.5
    M4 Max                -    546   17.0
    Strix Halo            -    256   59.4
    DGX Spark           128    273      -
"""
# Memory of a desktop: two channels of 8 bytes; compute of eight cores at 4 GHz with AVX2. Servers': all channels.
_CPUS = """
    DDR4-2666             -   42.7    1.0
    DDR4-3200             -   51.2    1.0
    DDR5-4800             -   76.8    1.0
    DDR5-5600             -   89.6    1.0
    DDR5-6000             -   96.0    1.0
    EPYC 7003             -  204.8      -
    EPYC 9004             -  460.8      -
    Raspberry Pi 5        -   17.1   0.15
"""

_OTHER_NAMES = {"Ryzen AI Max+ 395": "Strix Halo", "GB10": "DGX Spark"}

_MAKERS = re.compile(r"\b(nvidia|geforce|quadro|tesla|amd|ati|radeon|instinct|intel|arc|apple|graphics|gpu)\b")
_MEMORY = re.compile(r"\s+\(?(\d{1,4})\s*gi?b\)?\s*$", re.IGNORECASE)


def _cards(table: str, kind: Kind) -> list[Card]:
    cards = []
    for line in table.strip().splitlines():
        *name, memory, bandwidth, compute = line.split()
        memory_bytes = None if memory == "-" else int(memory) << 30
        flops = None if compute == "-" else float(compute) * 1e12
        cards.append(Card(" ".join(name), kind, memory_bytes, float(bandwidth) * 1e9, flops))
    return cards


CARDS: tuple[Card, ...] = (
    *_cards(_NVIDIA, Kind.GPU),
    *_cards(_AMD_AND_INTEL, Kind.GPU),
    *_cards(_INTEGRATED, Kind.INTEGRATED_GPU),
    *_cards(_CPUS, Kind.CPU),
)
"""All that is known by name."""


def find_card(name: str) -> Card:
    """The card of that name, whatever its case, its spaces and its maker's names; its own memory may stand behind it.

    Raises:
        ValueError: None is called so; names the nearest.
    """
    card = _BY_NAME.get(_plain(name))
    if card is not None:
        return card
    size = _MEMORY.search(name)
    if size is not None:
        memory_bytes = int(size[1]) << 30
        card = _BY_NAME.get(_plain(name[: size.start()]))
        if card is not None and card.memory_bytes in (None, memory_bytes):
            return replace(card, memory_bytes=memory_bytes)
    near = ", ".join(_nearest(name))
    raise ValueError(f"no card {name!r} is known; the nearest are {near}; or give memory and bandwidth instead")


def _nearest(name: str) -> list[str]:
    """Cards of that name that differ in their memory, or else those written most alike."""
    plain = _plain(name)
    sizes = [card.name for card in CARDS if _plain(_MEMORY.sub("", card.name)) == plain]
    alike = difflib.get_close_matches(plain, _BY_NAME, n=3, cutoff=0.0)
    return sizes or list(dict.fromkeys(_BY_NAME[key].name for key in alike))


def _plain(name: str) -> str:
    """What is left of a name without case, spaces, signs and makers."""
    return re.sub(r"[\s_()-]", "", _MAKERS.sub(" ", name.casefold().replace("(r)", "").replace("(tm)", "")))


_BY_NAME = {_plain(card.name): card for card in CARDS}
_BY_NAME |= {_plain(other): _BY_NAME[_plain(name)] for other, name in _OTHER_NAMES.items()}
