# SPDX-License-Identifier: MIT
"""Times as people write them. Pure."""

import re

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhd]?)", re.ASCII | re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
# What a thread can be told to wait is less than 300 years.
_MOST_S = 10 * 365 * 86400


def parse_duration(text: str) -> float:
    """Seconds from "5m", "90s", "1.5h", "1d", or a plain number of seconds.

    Raises:
        ValueError: it is none of these, or more than ten years; says so.
    """
    duration = _DURATION.fullmatch(text.strip())
    seconds = float(duration[1]) * _SECONDS[duration[2].lower()] if duration else _MOST_S + 1
    if seconds > _MOST_S:
        raise ValueError(f"{text!r} is no time, like 90s, 5m, 1h or a number of seconds; ten years at most")
    return seconds
