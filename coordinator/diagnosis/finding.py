# SPDX-License-Identifier: MIT
"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(str, Enum):
    """How a finding is to be taken."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        remedy: What to do; empty where there is nothing to be done.
    """

    subject: str
    verdict: Verdict
    text: str
    remedy: str = ""
