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


def shown(n_bytes: int) -> str:
    """Bytes for people: "7.6 GiB", "310 MiB"."""
    gib = n_bytes / (1 << 30)
    if gib >= 1:
        return f"{gib:.1f} GiB"
    return f"{n_bytes / (1 << 20):.0f} MiB"
