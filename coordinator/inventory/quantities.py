# SPDX-License-Identifier: MIT
"""Bandwidths, compute and times as data sheets write them. Pure; sizes are in `protos.sizes`, which workers read too.

Bytes are told from bits by how they are written: `GB/s` and `Gbit/s`. All units here are decimal but the binary ones
of memory (`GiB/s`).
"""

from __future__ import annotations

import re

_NUMBER = r"(\d{1,15}(?:\.\d{1,15})?)\s*"
_BANDWIDTH = re.compile(_NUMBER + r"([kKMGT]?)(i?)(B|bit)/s", re.ASCII)
_COMPUTE = re.compile(_NUMBER + r"([GTP])FLOPS?", re.ASCII | re.IGNORECASE)
_TIME = re.compile(_NUMBER + r"(us|µs|ms|s)")
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


def parse_bandwidth(text: str) -> float:
    """Bytes per second from "936GB/s" or "2.5Gbit/s".

    Raises:
        ValueError: It is none of these, or nothing gets through; says so.
    """
    match = _BANDWIDTH.fullmatch(text.strip())
    if match is None or (match[3] and match[4] == "bit") or float(match[1]) == 0:
        raise ValueError(f"{text!r} is no bandwidth, like 936GB/s (bytes) or 2.5Gbit/s (bits)")
    base = 1024.0 if match[3] else 1000.0
    bytes_per_s: float = float(match[1]) * base ** _POWERS[match[2].upper()]
    return bytes_per_s / 8 if match[4] == "bit" else bytes_per_s


def parse_compute(text: str) -> float:
    """Operations per second from "71TFLOPS".

    Raises:
        ValueError: It is none, or zero; says so.
    """
    match = _COMPUTE.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{text!r} is no compute, like 71TFLOPS or 800GFLOPS")
    return float(match[1]) * 1000.0 ** _POWERS[match[2].upper()]


def parse_time(text: str) -> float:
    """Seconds from "0.5ms", "200us" or "1s".

    Raises:
        ValueError: It is none of these; says so.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no time, like 0.5ms, 200us or 1s")
    return float(match[1]) * _SECONDS[match[2]]
