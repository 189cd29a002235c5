# SPDX-License-Identifier: MIT
"""Bytes as people write and read them, the same wherever they are asked for. Pure."""

import re

_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*(?:([KMGT])(I?)B?|B)?", re.ASCII | re.IGNORECASE)
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """Bytes from "20GiB" (binary), "20GB" or "20G" (decimal), or a plain number.

    Raises:
        ValueError: it is none of these; says so.
    """
    size = _SIZE.fullmatch(text.strip())
    if size is None:
        raise ValueError(f"{text!r} is no size, like 20GiB, 512MiB, 20G or a number of bytes")
    number, unit, binary = size.groups()
    base = 1024 if binary else 1000
    return int(float(number) * base ** _POWERS[unit.upper()]) if unit else int(float(number))


def size(n_bytes: int) -> str:
    """Bytes for a person: "512 KiB", "3.6 GiB"."""
    value, unit = float(n_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
